"""What counts as a secret, and that every writer leaves it out while what uses it still has it."""

from __future__ import annotations

import json
import re
import string
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import Cli
from loraplug import InputError, LoraplugError, Problem, Run, kinds_of_secrets, redact, redacted
from loraplug.pipeline.state import differences, seal
from loraplug.recipe.lock import shareable

WORD = "a1B2c3D4e5F6g7H8i9J0"
TOKENS = [
    f"hf_{WORD}k1L2m3N4o5", f"ghp_{WORD}k1L2m3N4o5P6q7R8", f"gho_{WORD}k1L2m3N4o5P6q7R8", f"glpat-{WORD}",
    f"github_pat_{WORD}{WORD}_{WORD}", f"sk-{WORD}{WORD}", f"sk-proj-{WORD}-{WORD}_{WORD}",
    f"sk-ant-api03-{WORD}-{WORD}", f"sk_live_{WORD}", "AKIA" + "IOSFODNN7EXAMPLE", f"xoxb-123456789012-{WORD}",
    f"AIza{WORD}{WORD[:15]}", f"npm_{WORD}k1L2m3N4o5P6q7R8", f"pypi-AgEIcHlwaS5vcmc{WORD}{WORD}",
    f"nvapi-{WORD}-{WORD}", f"gsk_{WORD}{WORD}", f"hvs.{WORD}{WORD}", f"dckr_pat_{WORD}_{WORD}",
    f"wandb_v1_{WORD}_{WORD}", f"123456789:AA{WORD}-{WORD[:12]}",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl-_x",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\nAAAA\n-----END OPENSSH PRIVATE KEY-----",
]  # fmt: skip
AROUND = [
    ("https://user:hunter22@git.example.org/{repo}.git", "hunter22"),
    ("https://s3cretpw12345@git.example.org/a.git", "s3cretpw12345"),
    ("https://user:pa/ssw0rd@host/x", "w0rd"),
    ("https://user:p@ssw0rd@host/x@v1", "ssw0rd"),
    ("git+ssh://git:pw12@host/r", "pw12"),
    ("postgresql://me:hunter22@db:5432/rows", "hunter22"),
    ("Authorization: Bearer opaque12345", "opaque12345"),
    ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
    ('"PRIVATE-TOKEN": "hunter22hunter"', "hunter22hunter"),
    ("bearer opaque12345", "opaque12345"),
    ("https://h/x?a=1&access_token=hunter22&b=2", "hunter22"),
    ("https://bucket.s3.amazonaws.com/x?X-Amz-Signature=abcdef012345", "abcdef012345"),
    ("https://hooks.slack.com/services/T0001/B0001/hunter22hunter", "hunter22hunter"),
    ("HF_TOKEN=hunter22 loraplug run", "hunter22"),
    ("git clone --password=hunter22", "hunter22"),
]
PLAIN = [
    "https://git@github.com/a/b", "git@github.com:a/b.git", "https://host:8080/a@b", "https://x.org/@user/post",
    "pad_token = '<pad>'", "max_tokens=400000", "scikit-learn", "a task-management-system-with-a-long-name",
    "the bearer of good news", "Basic authentication is required", "Authorization: Bearer ${TOKEN}",
    "https://pub-4b43a94ed07d4ac38fae3f4cb5070d6c.r2.dev/bugs", "trainer.token_weights=0.5", "https://[::1]:80/x@y",
    "Authorization: Bearer <token>", "http://{host}:{port}/x", "sha256 " + "0123456789abcdef" * 4, "me@example.org",
    "test_that_a_rather_long_name_of_a_test_is_no_token", "see https://a.org:80 or write to me@b.org",
]  # fmt: skip


@pytest.mark.parametrize("token", TOKENS, ids=lambda token: token[:8])
@given(
    before=st.sampled_from(["", " ", '"', "x=", "(", "key: ", "\n", ">"]),
    after=st.sampled_from(["", " ", '"', "\n", ")"]),
)
def test_known_tokens_are_told_by_their_shape(token: str, before: str, after: str) -> None:
    """Wherever they stand, also in JSON; what is around them stays."""
    assert redact(f"{before}{token}{after}") == f"{before}REDACTED{after}"
    assert kinds_of_secrets(json.dumps([before + token + after]))


@pytest.mark.parametrize(("text", "secret"), AROUND)
def test_secrets_are_told_by_what_is_around_them(text: str, secret: str) -> None:
    """User info in addresses, headers, signed addresses, assignments; once taken out they stay out."""
    assert secret not in redact(text) and "REDACTED" in redact(text)
    assert redact(redact(text)) == redact(text)
    assert "{repo}.git" in redact(text) or "{repo}" not in text


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    """Names, ports, hashes, placeholders."""
    assert redact(text) == text
    assert not kinds_of_secrets(text)


_PASSWORD = st.text(string.ascii_letters + string.digits + "!$%^&*()_+-=.,~:@", min_size=4, max_size=30)


@given(scheme=st.sampled_from(["https", "http", "ssh", "git+https", "ftp", "redis"]), password=_PASSWORD)
def test_no_password_stays_in_an_address(scheme: str, password: str) -> None:
    """Whatever characters it has."""
    assert redact(f"{scheme}://user:{password}@host.example/p.git") == f"{scheme}://REDACTED@host.example/p.git"


@given(st.text())
def test_any_text_can_be_looked_through(text: str) -> None:
    """Nothing raises, and a second look changes nothing."""
    once = redact(text)
    assert redact(once) == once


def test_the_environments_own_secrets_are_known_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any shape; words, numbers and paths are none."""
    monkeypatch.setenv("SHOP_PASSWORD", "correct horse 7")
    monkeypatch.setenv("WANDB_API_KEY", "disabled")
    monkeypatch.setenv("KEY", "/etc/ssl/private.pem")
    assert (
        redact("it is correct horse 7, disabled in /etc/ssl/private.pem")
        == "it is REDACTED, disabled in /etc/ssl/private.pem"
    )


def test_tables_are_cleared_by_key_too() -> None:
    """`password`, `api_key`, `Authorization`; not `pad_token`, and never a number."""
    table = {
        "api_key": "x",
        "headers": {"Authorization": "y", "Accept": "z"},
        "pad_token": "<pad>",
        "max_tokens": 3,
        "l": [TOKENS[0]],
    }
    cleared = {"api_key": "REDACTED", "headers": {"Authorization": "REDACTED", "Accept": "z"}, "pad_token": "<pad>"}
    assert redacted(table) == cleared | {"max_tokens": 3, "l": ["REDACTED"]}


def test_errors_and_what_a_run_says_hold_no_secret(tmp_path: Path) -> None:
    """Text, place and next step; problems of a recipe also by their key."""
    address = "https://me:hunter22@host/x"
    for error in (LoraplugError(address, where=address, todo=address), InputError(address)):
        assert "hunter22" not in str(error) + repr(error) + str(error.args)
    assert "hunter22" not in str(Problem("dataset.password", "expected int, got str 'hunter22'"))
    told = []
    run = Run("x", outputs=tmp_path, observe=told.append)
    run.say(address), run.warn(address), run.emit("metrics", note=address, step=1)
    assert "hunter22" not in repr([run.reporter.lines, run.reporter.warnings, told])
    assert told[0].data["step"] == 1


def test_sealed_tables_are_told_apart_but_not_read() -> None:
    """The same secret fits, another does not, and the hash is another one each time."""
    table = {"a": {"url": "https://me:hunter22@h/x", "n": 1}, "list": [{"token": "abc"}]}
    sealed = seal(table)
    assert "hunter22" not in repr(sealed) and "abc" not in repr(sealed)
    assert sealed["secrets"].keys() == {"a.url", "list.0.token"}
    assert sealed["secrets"] != seal(table)["secrets"]
    assert differences(sealed["recipe"], sealed["secrets"], table) == []
    other = {"a": {"url": "https://me:hunter23@h/x", "n": 2}, "list": [{"token": "abc"}]}
    assert differences(sealed["recipe"], sealed["secrets"], other) == ["a.n", "a.url"]


def test_a_shareable_lock_tells_nothing_of_the_machine() -> None:
    """No folder; of paths outside the recipe's folder the last part, and they are named as left out."""
    text = (
        'run_name = "x"\n[dataset]\npath = "../../home/ann/rows.jsonl"\nfiles = ["a.json", "/home/ann/b.json"]\n'
        'near = "rows/c.json"\n[lock]\nfolder = "/home/ann/w"\n'
    )
    made = shareable(text)
    assert "ann" not in made
    table = tomllib.loads(made)
    assert table["dataset"] == {
        "path": "REDACTED/rows.jsonl",
        "files": ["a.json", "REDACTED/b.json"],
        "near": "rows/c.json",
    }
    assert table["lock"]["redacted"].keys() == {"dataset.path", "dataset.files"}


# through the command line


@pytest.fixture
def shop(tmp_path: Path, recipe: Path) -> Path:
    """A recipe of the `swe` source with a token in its clone address, filled in from a variable."""
    tasks = [
        {"instance_id": f"a__b-{n}", "repo": "a/b", "base_commit": "1" * 40, "problem_statement": f"It fails {n}.",
         "patch": f"--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+{n}\n"}
        for n in range(12)
    ]  # fmt: skip
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    text = recipe.read_text()
    source = '[dataset]\nuse = "swe"\ntasks = "tasks.jsonl"\nturns = "single"\nclone_url = "${CLONE_URL}"\n'
    text = re.sub(r"\[dataset\]\n.*?(?=\[formatter\])", lambda _: source, text, flags=re.S)
    recipe.write_text(text.replace("max_length = 256", "max_length = 512"))
    return recipe


@pytest.mark.slow
def test_a_token_in_a_recipe_is_written_nowhere_and_its_lock_asks_for_it(
    shop: Path, inside: Cli, tmp_path: Path
) -> None:
    """Not in lock, state, events, card, adapter or messages; the lock runs with the variable, or the value again."""
    address = f"https://user:{TOKENS[1]}@git.example.org/{{repo}}.git"
    env = {"CLONE_URL": address}
    done = inside("run", shop, env=env)
    assert done.returncode == 0, done.stderr
    said = [done, inside("run", shop, env=env), inside("recipe", "show", shop, env=env)]
    said += [inside("recipe", "show", shop, "--resolved", env=env), inside("recipe", "show", shop, "--json", env=env)]
    said += [
        inside("run", shop, "--set", f"trainer.lora.rank={address}", "--debug", env=env),
        inside("runs", "show", "tiny"),
    ]
    said += [inside("nothing", address), inside("run", shop, "--set", address), inside("run", shop, f"--{address}")]
    assert not [one.args for one in said if TOKENS[1] in one.stdout + one.stderr]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != shop]
    assert len(files) > 40 and not [path for path in files if TOKENS[1].encode() in path.read_bytes()]

    lock = tmp_path / "outputs/adapters/tiny/recipe.lock.toml"
    assert tomllib.loads(lock.read_text())["lock"]["redacted"] == {"dataset.clone_url": "${CLONE_URL}"}
    for words in (["run", lock, "--set", "run_name=again"], ["recipe", "check", lock]):
        refused = inside(*words)
        assert refused.returncode == 2
        assert "dataset.clone_url: REDACTED stands here in place of a secret: ${CLONE_URL}" in refused.stderr
        assert "--set dataset.clone_url=…" in refused.stderr
    assert inside("recipe", "check", lock, env=env).returncode == 0
    assert inside("recipe", "check", lock, "--set", f"dataset.clone_url={address}").returncode == 0
    shown = tmp_path / "shown.toml"
    shown.write_text(inside("recipe", "show", shop, env=env).stdout)
    assert inside("recipe", "check", shown).returncode == 2
    # another secret is another recipe
    other = inside("run", shop, env={"CLONE_URL": address.replace("ghp_a", "ghp_b")})
    assert other.returncode == 2 and "different: dataset.clone_url" in other.stderr


def test_a_secret_is_still_there_to_be_used(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is written is cleared: the component has the whole address."""
    from loraplug import load_registry
    from loraplug.recipe.building import build
    from loraplug.recipe.layers import read_layers

    monkeypatch.setenv("CLONE_URL", "https://user:hunter22@h/{repo}")
    found = build(read_layers(shop), load_registry())
    assert found.dataset.clone_url == "https://user:hunter22@h/{repo}"  # type: ignore[attr-defined]


@pytest.mark.slow
def test_secrets_in_rows_are_counted_and_named_by_row_never_shown(recipe: Path, inside: Cli, tmp_path: Path) -> None:
    """A warning with row ids; the samples of summary and state are cleared."""
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["instruction"] += f" Use {TOKENS[0]}."
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = inside("run", recipe, "--set", "trainer.samples=2")
    assert done.returncode == 0, done.stderr
    assert "12 of 12 rows hold what looks like a secret (12 token): 0, 1, 2" in done.stderr
    assert "--- prompt ---" in done.stdout and TOKENS[0] not in done.stdout + done.stderr
    written = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert not [path for path in written if TOKENS[0].encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_failed_clone_names_no_token(shop: Path, inside: Cli, tmp_path: Path) -> None:
    """Git repeats the address it was given; neither screen nor the rejects file do."""
    env = {"CLONE_URL": f"https://user:{TOKENS[1]}@127.0.0.1:9/{{repo}}.git"}
    done = inside("data", shop, "-o", tmp_path / "out.jsonl", "--set", "dataset.mode=code-context", env=env)
    assert done.returncode != 0
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != shop]
    assert TOKENS[1] not in done.stdout + done.stderr
    assert not [path for path in files if TOKENS[1].encode() in path.read_bytes()]
