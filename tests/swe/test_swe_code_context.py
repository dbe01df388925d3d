"""Code-context rows: every oddity of real patches, replayed in a real shell, and what is rejected with which words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from swe_helpers import Repo, checkout_of, commands, read_rejects, replay, row, synth, write_tasks

from loraplug import InputError, Run
from loraplug_swe.conversations.swe import SweSource
from loraplug_swe.patches.reverse import reverse_patch
from loraplug_swe.tasks.options import GitLimits

BODY = "".join(f"line {n}\n" for n in range(1, 31))


def source(tmp_path: Path, rows: list[dict], **options) -> SweSource:
    options = {"mode": "code-context", "clone_url": str(tmp_path / "{repo}")} | options
    return SweSource(tasks=write_tasks(tmp_path, rows), **options)


def changed(text: str, *numbers: int, to: str = "changed") -> str:
    lines = text.split("\n")
    for number in numbers:
        lines[number - 1] = f"{to} {number}"
    return "\n".join(lines)


def repeated(repo: Repo, base: str) -> str:
    """One file in two sections, the second standing on the first."""
    repo.git("checkout", "-q", base)
    first = repo.patch(base, {"a.py": changed(BODY, 3)})
    middle = repo.commit({"a.py": changed(BODY, 3)})
    second = repo.patch(middle, {"a.py": changed(changed(BODY, 3), 3, 20, to="again")})
    return first + second


ODDITIES = {
    "one file": lambda repo, base: repo.patch(base, {"a.py": changed(BODY, 3)}),
    "same file twice": repeated,
    "creation": lambda repo, base: repo.patch(base, {"new/deep/c.py": "x = 1\n"}),
    "creation under an ignore rule": lambda repo, base: repo.patch(base, {"skipped.log": "kept all the same\n"}),
    "empty file": lambda repo, base: repo.patch(base, {"pkg/__init__.py": ""}),
    "deletion": lambda repo, base: repo.patch(base, {"b.py": None}),
    "rename": lambda repo, base: repo.patch(base, {"a.py": None, "moved/a.py": BODY}),
    "rename and change": lambda repo, base: repo.patch(base, {"a.py": None, "z.py": changed(BODY, 9)}),
    "no newline at the end": lambda repo, base: repo.patch(base, {"b.py": "b = 2"}),
    "newline added at the end": lambda repo, base: repo.patch(base, {"open.txt": "open end\n"}),
    "CRLF file": lambda repo, base: repo.patch(base, {"dos.txt": "one\r\nTWO\r\nthree\r\n"}),
    "byte-order mark": lambda repo, base: repo.patch(base, {"bom.txt": "\ufeffhello\nthere\n"}),
    "space in a name": lambda repo, base: repo.patch(base, {"with space/x y.txt": "new\n"}),
    "not ASCII": lambda repo, base: repo.patch(base, {"ünï/ö.txt": "ä\n"}),
    "quote and dash": lambda repo, base: repo.patch(base, {"-q'uote.txt": "new\n"}),
    "whitespace warnings": lambda repo, base: repo.patch(base, {"b.py": "b = 1  \n\tc = 2 \n\n\n"}),
    "code fences": lambda repo, base: repo.patch(base, {"doc.md": "# Doc\n\n ```\nx\n ```\n````\n"}),
    "looks like headers": lambda repo, base: repo.patch(base, {"doc.md": "# Doc\n++ b/x\n-- a/x\n@@ -1 +1 @@\n"}),
    "here-document word": lambda repo, base: repo.patch(base, {"doc.md": "# Doc\nPATCH\n"}),
    "no index line": lambda repo, base: "".join(
        line for line in repo.patch(base, {"a.py": changed(BODY, 3)}).splitlines(True) if not line.startswith("index")
    ),
    "no newline at the end of the patch": lambda repo, base: repo.patch(base, {"a.py": changed(BODY, 3)}).rstrip("\n"),
    "bare headers": lambda repo, base: repo.patch(base, {"a.py": changed(BODY, 3)}).split("\n", 2)[2],
    "prose around": lambda repo, base: "From me\n\n" + repo.patch(base, {"a.py": changed(BODY, 3)}) + "-- \n2.39\n",
    "/dev/null in the diff line": lambda repo, base: (
        "diff --git /dev/null b/odd.txt\nnew file mode 100644\n--- /dev/null\n+++ b/odd.txt\n@@ -0,0 +1,1 @@\n+odd\n"
    ),
    "moved hunk": lambda repo, base: repo.patch(base, {"a.py": changed(BODY, 20)}).replace("@@ -17,7", "@@ -14,7"),
}


@pytest.fixture
def base(repo: Repo) -> str:
    """A commit with a file for each oddity."""
    return repo.commit(
        {
            "a.py": BODY,
            "b.py": "b = 1\n",
            "open.txt": "open end",
            "dos.txt": "one\r\ntwo\r\nthree\r\n",
            "bom.txt": "\ufeffhello\n",
            "with space/x y.txt": "old\n",
            "ünï/ö.txt": "a\n",
            "-q'uote.txt": "old\n",
            "doc.md": "# Doc\n\n ```\ny\n ```\n```\n",
            ".gitignore": "*.log\n",
        }
    )


@pytest.mark.parametrize("name", ODDITIES)
def test_every_command_prints_what_the_row_says(name: str, repo: Repo, base: str, run: Run, tmp_path: Path) -> None:
    """The whole session, run by bash in a fresh clone, gives exactly the answers in the row."""
    patch = ODDITIES[name](repo, base)
    (made,) = source(tmp_path, [row(base, patch)]).rows(run)
    replay(made["messages"], checkout_of(repo, base, tmp_path / "checkout"))
    assert made["group"] == ["ada/lib", "ada__lib-1"]


@pytest.mark.parametrize("name", sorted(set(ODDITIES) - {"prose around"}))
def test_a_bug_is_taken_back_exactly(name: str, repo: Repo, base: str, run: Run, tmp_path: Path) -> None:
    """With revert-bug the session starts from base + gold + bug and ends at base + gold; bash agrees."""
    gold = repo.patch(base, {"gold.txt": "gold\n"})
    bug = ODDITIES[name](repo, base)
    (made,) = source(tmp_path, [synth(base, gold, bug)]).rows(run)
    bug = bug if bug.endswith("\n") else bug + "\n"
    checkout = checkout_of(repo, base, tmp_path / "checkout", gold, bug)
    replay(made["messages"], checkout)
    fixed = checkout_of(repo, base, tmp_path / "fixed", gold)
    trees = [Repo.git(_at(folder), "write-tree") for folder in (checkout, fixed)]
    assert trees[0] == trees[1]


def _at(folder: Path) -> Repo:
    clone = object.__new__(Repo)
    clone.folder = folder
    return clone


def test_all_oddities_in_one_batch(repo: Repo, base: str, run: Run, tmp_path: Path) -> None:
    """Proved together with failing rows between them, rows are the same as proved alone."""
    rows = []
    for at, (name, make) in enumerate(ODDITIES.items()):
        rows.append(row(base, make(repo, base), instance_id=f"ok-{at}"))
        rows.append(
            row(
                base,
                repo.patch(base, {"a.py": changed(BODY, 3)}).replace("line 4", f"line {name}"),
                instance_id=f"bad-{at}",
            )
        )
    together = list(source(tmp_path, rows).rows(run))
    assert [one["instance_id"] for one in together] == [f"ok-{at}" for at in range(len(ODDITIES))]
    rejected = read_rejects(run)
    assert {one["reason"] for one in rejected} == {"does-not-apply"}
    assert all("a.py" in one["detail"] and "@" not in one["detail"] for one in rejected)
    assert len(rejected) == len(ODDITIES)
    for one, alone in zip(together, rows[::2], strict=True):
        assert [one] == list(source(tmp_path, [alone]).rows(run))


def test_modes_links_and_submodules(repo: Repo, run: Run, tmp_path: Path) -> None:
    """Mode changes, symbolic links and submodule hunks are proved and replayed like any change."""
    (repo.folder / "tool.sh").write_text("true\n")
    (repo.folder / "link").symlink_to("tool.sh")
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendor/dep")
    repo.git("add", "tool.sh", "link")
    repo.git("commit", "-q", "-m", "start")
    base = repo.git("rev-parse", "HEAD").strip()
    mode = "diff --git a/tool.sh b/tool.sh\nold mode 100644\nnew mode 100755\n"
    link = (
        "diff --git a/link b/link\n--- a/link\n+++ b/link\n@@ -1 +1 @@\n-tool.sh\n\\ No newline at end of file\n"
        "+tool2.sh\n\\ No newline at end of file\n"
    )
    module = (
        f"diff --git a/vendor/dep b/vendor/dep\nindex {'1' * 7}..{'2' * 7} 160000\n--- a/vendor/dep\n"
        f"+++ b/vendor/dep\n@@ -1 +1 @@\n-Subproject commit {'1' * 40}\n+Subproject commit {'2' * 40}\n"
    )
    rows = [row(base, text, instance_id=str(at)) for at, text in enumerate((mode, link, module, mode + link + module))]
    made = list(source(tmp_path, rows).rows(run))
    assert len(made) == 4
    for at, one in enumerate(made):
        replay(one["messages"], checkout_of(repo, base, tmp_path / f"checkout{at}"))


def test_git_attributes_of_the_tree_count(repo: Repo, run: Run, tmp_path: Path) -> None:
    """`-diff` and diff drivers in the tree's .gitattributes shape the submission, as in a checkout."""
    body = "class A:\n    def f(self):\n" + "".join(f"        x = {n}\n" for n in range(20))
    base = repo.commit(
        {
            ".gitattributes": "*.gen -diff\n*.py diff=python\n",
            "m.py": body,
            "sub/.gitattributes": "*.z -diff\n",
            "sub/k.z": "1\n",
            "k.z": "1\n",
        }
    )
    rows = [row(base, repo.patch(base, {"m.py": body.replace("x = 15", "y = 15"), "k.z": "2\n"}))]
    (made,) = source(tmp_path, rows).rows(run)
    assert "def f(self):" in made["messages"][-1]["content"]
    replay(made["messages"], checkout_of(repo, base, tmp_path / "checkout"))


def test_patch_that_goes_forward_only(repo: Repo, run: Run, tmp_path: Path) -> None:
    """A diff with a file in two sections, which `git apply -R` refuses, is still taken back."""
    base = repo.commit({"a.py": BODY})
    bug = repeated(repo, base)
    (made,) = source(tmp_path, [synth(base, bug=bug)]).rows(run)
    replay(made["messages"], checkout_of(repo, base, tmp_path / "checkout", bug))


REFUSED = {
    "does-not-apply": lambda repo, base: repo.patch(base, {"a.py": changed(BODY, 3)}).replace("line 4", "other"),
    "empty-patch": lambda repo, base: " \n",
    "corrupt-patch": lambda repo, base: repo.patch(base, {"a.py": changed(BODY, 3)}).replace(",6 +1", ",9 +1"),
    "unsafe-path": lambda repo, base: "--- a/../out.txt\n+++ b/../out.txt\n@@ -1 +1 @@\n-a\n+b\n",
    "not-utf8": lambda repo, base: "--- a/latin.txt\n+++ b/latin.txt\n@@ -1,2 +1,2 @@\n-first\n+second\n x\n",
    "binary-file": lambda repo, base: "--- a/bin.dat\n+++ b/bin.dat\n@@ -1,2 +1,2 @@\n-first\n+second\n x\n",
    "file-too-large": lambda repo, base: "--- a/big.txt\n+++ b/big.txt\n@@ -1 +1 @@\n-first\n+second\n",
    "path-conflict": lambda repo, base: "--- /dev/null\n+++ b/sub\n@@ -0,0 +1 @@\n+x\n",
    "changes-nothing": lambda repo, base: (
        repo.patch(base, {"a.py": changed(BODY, 3)}) + reverse_patch(repo.patch(base, {"a.py": changed(BODY, 3)}))
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_row_that_cannot_be_true_is_rejected(reason: str, repo: Repo, run: Run, tmp_path: Path) -> None:
    """Each reason has its code, git's words where git spoke, and leaves the other rows alone."""
    base = repo.commit(
        {
            "a.py": BODY,
            "latin.txt": "first\nx\ncaf\xe9\n".encode("latin-1"),
            "bin.dat": "first\nx\n\0\n",
            "big.txt": "first\n" + "x" * 3000,
            "sub/b.py": "1\n",
        }
    )
    good = repo.patch(base, {"a.py": changed(BODY, 3)})
    rows = [
        row(base, good, instance_id="good-1"),
        row(base, REFUSED[reason](repo, base)),
        row(base, good, instance_id="good-2"),
    ]
    made = list(source(tmp_path, rows, git=GitLimits(max_file_bytes=2000)).rows(run))
    assert [one["instance_id"] for one in made] == ["good-1", "good-2"]
    (rejected,) = read_rejects(run)
    assert (rejected["instance_id"], rejected["reason"]) == ("ada__lib-1", reason)
    assert rejected["detail"]
    if reason == "does-not-apply":
        assert rejected["detail"] == "error: patch failed: a.py:1\nerror: a.py: patch does not apply"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"repo": "--upload-pack=x/y"}, "unsafe-repo"),
        ({"repo": "../../etc"}, "unsafe-repo"),
        ({"repo": "ada/no-such"}, "no-clone"),
        ({"base_commit": "--output=x"}, "unsafe-commit"),
        ({"base_commit": "0" * 40}, "no-commit"),
        ({"base_commit": None}, "no-commit"),
    ],
)
def test_strange_repositories_and_commits(fields: dict, reason: str, repo: Repo, run: Run, tmp_path: Path) -> None:
    """What could be an option, leads elsewhere or is not there is a reject with its reason."""
    base = repo.commit({"a.py": BODY})
    patch = repo.patch(base, {"a.py": changed(BODY, 3)})
    rows = [row(base, patch, instance_id="good"), row(base, patch) | fields]
    assert [one["instance_id"] for one in source(tmp_path, rows).rows(run)] == ["good"]
    assert [one["reason"] for one in read_rejects(run)] == [reason]


def test_a_path_through_a_link_is_refused(repo: Repo, run: Run, tmp_path: Path) -> None:
    """A file created behind a symbolic link would land outside the tree; git says so, in its words."""
    (repo.folder / "link").symlink_to("/tmp")
    base = repo.commit({"a.py": BODY})
    patch = "diff --git a/link/x b/link/x\nnew file mode 100644\n--- /dev/null\n+++ b/link/x\n@@ -0,0 +1 @@\n+x\n"
    with pytest.raises(InputError, match="1 does-not-apply"):
        list(source(tmp_path, [row(base, patch)]).rows(run))
    assert "beyond a symbolic link" in read_rejects(run)[0]["detail"]


def test_long_files_are_paged_round_the_change(repo: Repo, run: Run, tmp_path: Path) -> None:
    """Pages hold at most max_file_lines lines, every changed line is seen, and sed prints just that."""
    body = "".join(f"line {n}\n" for n in range(1, 2001))
    base = repo.commit({"a.py": body})
    patch = repo.patch(base, {"a.py": changed(body, 5, 700, 730, 1999)})
    (made,) = source(tmp_path, [row(base, patch)], max_file_lines=100).rows(run)
    pages = [answer for command, answer in commands(made["messages"]) if command.startswith("sed")]
    assert len(pages) == 3
    assert all(page.count("\n") <= 102 for page in pages)
    shown = "".join(pages)
    assert all(f"line {n}\n" in shown for n in (5, 700, 730, 1999))
    replay(made["messages"], checkout_of(repo, base, tmp_path / "checkout"))


def test_large_trees_are_listed_by_their_upper_folders(repo: Repo, run: Run, tmp_path: Path) -> None:
    """More paths than max_tree_lines: two levels, one level, or the head of one, as bash prints them."""
    base = repo.commit(
        {f"d{n % 5}/e{n % 20}/f-{n}.txt": "x\n" for n in range(100)} | {"a.py": BODY, "d1/e'\"q/ü.txt": "x\n"}
    )
    patch = repo.patch(base, {"a.py": changed(BODY, 3)})
    for most, listing in ((200, "git ls-files"), (30, "git ls-files | cut -d/ -f1-2 | uniq"), (10, "-f1 | uniq")):
        (made,) = source(tmp_path, [row(base, patch)], max_tree_lines=most).rows(run)
        command, _ = commands(made["messages"])[0]
        assert command.endswith(listing)
        replay(made["messages"], checkout_of(repo, base, tmp_path / f"checkout{most}"))


def test_what_commands_print_is_marked_as_cuttable(repo: Repo, base: str, run: Run, tmp_path: Path) -> None:
    """All outputs, and nothing else: the issue and the answers are never cut."""
    (made,) = source(tmp_path, [row(base, ODDITIES["moved hunk"](repo, base))]).rows(run)
    marked = [message["content"].startswith("<returncode>") for message in made["messages"]]
    assert [message.get("cuttable", False) for message in made["messages"]] == marked
    assert marked.count(True) == len(commands(made["messages"]))


def test_calls_of_a_tool_replay_as_well(repo: Repo, base: str, run: Run, tmp_path: Path) -> None:
    """The same session: looks at the real tree, the change, the submission."""
    (made,) = source(tmp_path, [row(base, ODDITIES["moved hunk"](repo, base))], turns="tools").rows(run)
    assert {message["role"] for message in made["messages"]} == {"system", "user", "assistant", "tool"}
    replay(made["messages"], checkout_of(repo, base, tmp_path / "checkout"))


def test_single_turn_shows_the_files_and_answers_with_the_diff(repo: Repo, run: Run, tmp_path: Path) -> None:
    """One question with listing and true file, one answer with the patch as it is."""
    base = repo.commit({"a.py": BODY, "b.py": "b\n"})
    patch = repo.patch(base, {"a.py": changed(BODY, 3)})
    (made,) = source(tmp_path, [row(base, patch)], turns="single").rows(run)
    system, question, answer = made["messages"]
    assert (system["role"], question["role"], answer["role"]) == ("system", "user", "assistant")
    assert f"```\n{BODY}```" in question["content"]
    assert "```\na.py\nb.py\n```" in question["content"]
    assert answer["content"] == f"```diff\n{patch}```"


def test_missing_content_is_a_reject(repo: Repo, run: Run, tmp_path: Path) -> None:
    """A repository copy that lacks a blob fails only the rows that need it; listings need no blobs."""
    base = repo.commit({"a.py": BODY, "b.py": "b\n", "lost.py": "lost\n"})
    rows = [row(base, repo.patch(base, {name: "new\n"}), instance_id=name) for name in ("b.py", "lost.py")]
    blob = repo.git("rev-parse", f"{base}:lost.py").strip()
    (repo.folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    made = list(source(tmp_path, rows).rows(run))
    assert [one["instance_id"] for one in made] == ["b.py"]
    assert "lost.py" in commands(made[0]["messages"])[0][1]
    assert [one["reason"] for one in read_rejects(run)] == ["missing-object"]


def test_owner_and_name_in_another_case_are_found(repo: Repo, run: Run, tmp_path: Path) -> None:
    """Rows write `Ada/Lib`, the copy is `ada/lib`: one clone serves both."""
    base = repo.commit({"a.py": BODY})
    patch = repo.patch(base, {"a.py": changed(BODY, 3)})
    rows = [row(base, patch, repo=name, instance_id=name) for name in ("Ada/Lib", "ada/lib")]
    assert len(list(source(tmp_path, rows, repos=("ADA/lib",)).rows(run))) == 2
    assert len([path for path in (run.cache / "swe" / "repos").iterdir() if path.is_dir()]) == 1


def test_random_changes_are_taken_back(repo: Repo, run: Run, tmp_path: Path) -> None:
    """Sixty random edits as bugs, one batch: every reversed patch is, by git's verdict, the exact inverse."""
    draw = random.Random(3)
    lines = [draw.choice(["", "x = 1", "}", "-- a", "++ b", "@@ c", "tab\t", f"n{n}"]) for n in range(60)]
    base = repo.commit({"a.txt": "\n".join(lines), "b.txt": "\n".join(lines) + "\n"})
    rows = []
    for at in range(60):
        changed_files: dict[str, bytes | str | None] = {}
        for name, end in (("a.txt", ""), ("b.txt", "\n")):
            new = [line for line in lines if draw.random() > 0.1]
            for _ in range(draw.randint(0, 4)):
                new.insert(draw.randint(0, len(new)), draw.choice(["added", "", "-- a", " "]))
            changed_files[name] = "\n".join(new) + draw.choice([end, "", "\n", "\n\n"])
        rows.append(synth(base, bug=repo.patch(base, changed_files)) | {"task_id": at})
    made = list(source(tmp_path, rows).rows(run))
    assert len(made) + sum(one["reason"] == "duplicate" for one in read_rejects(run)) == 60
    assert len(made) > 50
