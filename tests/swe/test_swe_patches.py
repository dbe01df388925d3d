"""Patches made sound: what is mended, what is refused, and that git reads whatever passes."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from swe_helpers import SHARED, Repo, checkout_of, needs_shared, read_rejects, replay, row, synth, write_tasks

from loraplug import Run
from loraplug_swe.conversations.swe import SweSource
from loraplug_swe.conversations.synth import SweSynthSource
from loraplug_swe.patches.repair import sound_patch
from loraplug_swe.tasks.rejects import Reject
from loraplug_swe.tasks.stores import open_place
from loraplug_swe.tasks.task import read_task

GIT = """\
diff --git a/lib/sum.py b/lib/sum.py
index 1111111..2222222 100644
--- a/lib/sum.py
+++ b/lib/sum.py
@@ -1,4 +1,5 @@
 def total(parts):
-    return max(parts)
+    \"\"\"All of them.\"\"\"
+    return sum(parts)
\x20
 # end
@@ -20,2 +21,2 @@ def last(parts):
-    return parts[0]
+    return parts[-1]
 # end
"""
BARE = GIT[GIT.index("--- a/") :]
MAIL = f"""\
From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001
From: Ada <ada@example.org>
Date: Mon, 1 Jan 2024 00:00:00 +0000
Subject: [PATCH] Sum, not maximum

- the sum is meant
---
 lib/sum.py | 5 +++--
 1 file changed, 3 insertions(+), 2 deletions(-)

{GIT}--\x20
2.43.0

"""


@pytest.mark.parametrize("patch", [GIT, BARE, GIT + BARE.replace("sum.py", "other.py")])
def test_a_sound_patch_stays_as_it_is(patch: str) -> None:
    """To the letter, and nothing is said to be mended."""
    assert sound_patch(patch).text == patch
    assert sound_patch(patch).mended == ()


@pytest.mark.parametrize(
    ("spoiled", "patch", "mended"),
    [
        (GIT.removesuffix("\n"), GIT, "last line break"),
        (GIT.replace("\n", "\r\n"), GIT, "line ends"),
        (BARE.replace("\n", "\r\n").removesuffix("\r\n"), BARE, "line ends"),
        (f"```diff\n{GIT}```\n", GIT, "text around the diff"),
        (f"~~~~\n{BARE}~~~~", BARE, "text around the diff"),
        (f"Here is the fix:\n\n{GIT}\nThis puts it right.", GIT, "text around the diff"),
        (f"Use the sum:\r\n\r\n```\r\n{GIT}```\r\n".replace("\r\n", "\n").replace("\n", "\r\n"), GIT, "line ends"),
        (MAIL, GIT, "text around the diff"),
        (MAIL + MAIL.replace("sum.py", "b.py"), GIT + GIT.replace("sum.py", "b.py"), "text around the diff"),
        ("\ufeff" + GIT, GIT, "text around the diff"),
        (f"diff -ru a/lib/sum.py b/lib/sum.py\n{BARE}", BARE, "text around the diff"),
        (GIT.replace("diff --git ", "diff "), GIT, "header lines"),
        (GIT.replace(" a/", " ").replace(" b/", " "), GIT, "header lines"),
        (BARE.replace(" a/", " ").replace(" b/", " "), BARE, "header lines"),
        ("Index: lib/sum.py\n=====\n" + BARE, BARE, "text around the diff"),
        (GIT.replace("-1,4 +1,5", "-1,2 +1,3"), GIT, "hunk counts"),
        (GIT.replace("-1,4 +1,5", "-1,2 +1,2"), GIT, "hunk counts"),
        (GIT.replace("-1,4 +1,5", "-1,1 +1,1") + BARE, GIT + BARE, "hunk counts"),
    ],
)
def test_what_is_mended(spoiled: str, patch: str, mended: str) -> None:
    """The diff comes out as git wrote it, and what was done is named."""
    done = sound_patch(spoiled)
    assert done.text == patch
    assert mended in done.mended


@pytest.mark.parametrize(
    ("patch", "reason", "told"),
    [
        (GIT[: GIT.index("-    return parts[0]")], "corrupt-patch", "line 12"),
        (GIT[: GIT.index(" # end\n@@")] + GIT[GIT.index("@@ -20") :], "corrupt-patch", "line 11"),
        (GIT.replace("-20,2 +21,2", "-20,9 +21,9"), "corrupt-patch", "9 old and 9 new lines, and 2 old and 2 new"),
        (GIT.replace("-20,2 +21,2", "-20,1 +21,0"), "corrupt-patch", "goes on past the 1 old and 0 new"),
        (GIT.replace("-    return parts[0]\n+    return parts[-1]\n", "     return parts[0]\n"), "corrupt-patch",
         "changes nothing"),
        (GIT.replace(" def total", "def total"), "corrupt-patch", "line 6"),
        ("Change max to sum.", "corrupt-patch", "No valid patches in input"),
        ("```diff\n```", "corrupt-patch", "No valid patches in input"),
        (GIT[GIT.index("@@") :], "corrupt-patch", "a hunk without a header"),
        ("diff --git a/x b/x\nindex 1..2 100644\n", "corrupt-patch", "only garbage"),
        ("diff --git a/x.png b/x.png\nindex 1..2\nBinary files a/x.png and b/x.png differ\n", "binary-file", "x.png"),
        (GIT.replace(" 100644", " 10x644"), "corrupt-patch", "line 2: invalid mode"),
        (GIT.replace("lib/sum.py", "../sum.py"), "unsafe-path", "leads out"),
        (GIT.replace("--- a/lib/sum.py", "--- /dev/null"), "corrupt-patch", "depends on old contents"),
        ("--- /dev/null\n+++ lib/new.py\n@@ -0,0 +1 @@\n+x = 1\n", "corrupt-patch", "no prefix"),
        (" \n", "empty-patch", ""),
    ],
)  # fmt: skip
def test_what_is_refused(patch: str, reason: str, told: str) -> None:
    """A cut hunk, counts that may be read two ways, words alone, a change without content: with git's reason."""
    with pytest.raises(Reject) as error:
        sound_patch(patch)
    assert error.value.reason == reason
    assert told in error.value.detail


def test_context_past_the_counts_at_the_end_is_left_out_as_git_does() -> None:
    """Nothing of the change is in it, and whether it belongs to the file cannot be told."""
    early = GIT.replace("-20,2 +21,2", "-20 +21")
    assert sound_patch(early).text == early.removesuffix(" # end\n")


def read_by_git(patch: str, folder: Path | None = None) -> bool:
    """Whether `git apply` can read a patch, and finds a change in it."""
    done = subprocess.run(
        ["git", "apply", "--numstat", "-"], input=patch.encode("utf-8", "surrogatepass"), capture_output=True,
        check=False, cwd=folder or "/", env={"PATH": "/usr/bin:/bin:/usr/local/bin", "LC_ALL": "C"},
    )  # fmt: skip
    return done.returncode == 0 and bool(done.stdout)


STRANGE = ["```\n", "\n", "prose\n", "+ x\n", "-- \n", "@@ -1 +1 @@\n", "\\ No newline\n", "index 1..2 \n"]
LINE = st.text(st.sampled_from("ab -+@\\\t\r/"), max_size=6)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE, max_size=12), st.lists(LINE, max_size=12), st.integers(0, 2**32), st.booleans())
def test_git_reads_whatever_passes(tmp_path: Path, old: list[str], new: list[str], seed: int, crlf: bool) -> None:
    """Git's own diffs of any two texts pass unchanged; damaged ones are refused, or are read by git after mending."""
    for name, lines in (("old", old), ("new", new)):
        (tmp_path / name).write_text("\n".join(lines), newline="")
    made = subprocess.run(
        ["git", "diff", "--no-index", "--no-color", "old", "new"], cwd=tmp_path, capture_output=True, check=False
    )
    patch = made.stdout.decode()
    if not patch:
        return
    patch = patch.replace("a/old", "a/x").replace("b/new", "b/x")
    assert sound_patch(patch).text == patch
    if crlf and "\r" not in patch:
        assert sound_patch(patch.replace("\n", "\r\n")).text == patch
    dice = random.Random(seed)
    lines = patch.splitlines(keepends=True)
    for _ in range(dice.randint(1, 2)):
        at = dice.randrange(len(lines))
        act = dice.choice(["cut", "drop", "twice", "insert", "shorten", "count"])
        if act == "cut":
            lines = lines[: at + 1]
        elif act == "drop" and len(lines) > 1:
            del lines[at]
        elif act == "twice":
            lines.insert(at, lines[at])
        elif act == "insert":
            lines.insert(at, dice.choice(STRANGE))
        elif act == "shorten":
            lines[at] = lines[at][: dice.randrange(len(lines[at]))] + "\n"
        else:
            lines[at] = lines[at].replace("1", dice.choice("0123"))
    try:
        done = sound_patch("".join(lines))
    except Reject:
        return
    assert read_by_git(done.text, tmp_path), done.text


@needs_shared
def test_every_shared_patch_is_sound() -> None:
    """All real patches pass, and git reads them; only blank lines between the parts of one are taken out."""
    for place in [SHARED / "swe_synth", *sorted(SHARED.glob("swe_bench*.jsonl"))]:
        tasks = open_place(str(place), split="", revision=None)
        together = ""
        for entry in tasks.read(tasks.numbers()):
            task = read_task(entry.data, entry.number, numbered=tasks.numbered, where=entry.where)
            for patch in filter(str.strip, (task.gold_patch, task.bug_patch)):
                done = sound_patch(patch)
                assert done.text == patch or set(done.mended) <= {"text around the diff", "last line break"}
                together += done.text
        assert read_by_git(together)


@pytest.mark.parametrize("mode", ["simple", "code-context"])
def test_broken_gold_patches_are_rejects_in_either_mode(mode: str, run: Run, tmp_path: Path, repo: Repo) -> None:
    """With a repository and without one: what cannot be read makes no conversation; what is mended is told."""
    base = repo.commit({"lib/sum.py": "def total(parts):\n    return max(parts)\n\n# end\n"})
    good = repo.patch(base, {"lib/sum.py": "def total(parts):\n    return sum(parts)\n\n# end\n"})
    cut = good[: good.rindex(" # end")]
    forms = [good, cut, f"```diff\n{good}```", good.replace("\n", "\r\n"), good.rstrip("\n"), "Use sum."]
    tasks = [row(base, patch, instance_id=f"ada__lib-{at}") for at, patch in enumerate(forms)]
    tasks.append(synth(base, "", cut))
    source = SweSource(tasks=write_tasks(tmp_path, tasks), mode=mode, clone_url=str(tmp_path / "{repo}"))
    made = list(source.rows(run))
    assert [one["task_id"] for one in made] == ["ada__lib-0", "ada__lib-2", "ada__lib-3", "ada__lib-4"]
    assert len({str(one["messages"]) for one in made}) == 1
    assert [(one["instance_id"], one["reason"]) for one in read_rejects(run)] == [
        ("ada__lib-1", "corrupt-patch"), ("ada__lib-5", "corrupt-patch"), ("ada__lib-1", "corrupt-patch")
    ]  # fmt: skip
    assert any("line ends in 1" in said and "text around the diff in 1" in said for said in run.reporter.lines)
    if mode == "code-context":
        replay(made[0]["messages"], checkout_of(repo, base, tmp_path / "checkout"))


def test_a_binary_patch_is_read_to_its_end(repo: Repo, run: Run, tmp_path: Path) -> None:
    """Git's own passes, one that is cut or changed does not, and the answer of `swe-synth` holds all of it."""
    base = repo.commit({"x.bin": bytes(range(256)) * 3})
    repo.write({"x.bin": bytes(reversed(range(256))) * 4})
    patch = repo.git("diff", "--binary", base)
    assert sound_patch(patch).text == patch
    assert sound_patch(f"See:\n{patch}\nDone.\n").text == patch
    lines = patch.splitlines(keepends=True)
    at = next(at for at, line in enumerate(lines) if line.startswith(("literal", "delta")))
    for broken in (lines[: at + 1], lines[: at + 1] + lines[at + 2 :], [*lines[: at + 1], lines[at + 1][:9] + "\n"]):
        with pytest.raises(Reject, match="corrupt"):
            sound_patch("".join(broken))
    (made,) = SweSynthSource(tasks=write_tasks(tmp_path, [row(base, patch)])).rows(run)
    assert made["response"] == patch
