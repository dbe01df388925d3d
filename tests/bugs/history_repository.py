"""A small git repository with a history: three fixes, and a commit for every reason to leave one out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bugs_helpers import CLAMP_AND_MEAN

CODE = f'"""Small sums."""\n\n\n{CLAMP_AND_MEAN}'
LOW = "import sums\n\n\ndef test_low():\n    assert sums.clamp(-1) == 0\n"
MEAN = "\n\ndef test_mean():\n    assert sums.mean([1, 2, 3]) == 2\n"
HIGH = "\n\ndef test_high():\n    assert sums.clamp(11) == 10\n"
HALF = "\n\ndef half(x):\n    return x / 2\n"
GUARD = "    if value > high:\n        return high\n"
MESSAGE = f"""Clamp forgets its upper bound

Values above `high` come back as they are. Now `if value > high:` guards it.

```
{GUARD}```
Signed-off-by: Ada <a@example.org>"""
TEXT = "import sums\n\n\ndef test_text():\n    assert sums.mean(['1', '3']) == 2\n"
LEANS = """\
import sums

seen = []


def test_first():
    seen.append(1)


def test_second():
    assert seen and sums.SEVEN == 7
"""


class History:
    """A git repository in `folder`, made commit after commit; `names` has the commits by the first line they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")
        self.names: dict[str, str] = {}

    def git(self, *arguments: str) -> str:
        """Run git with a fixed author and clock."""
        env = os.environ | {f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER")
                            for what, text in (("NAME", "Ada"), ("EMAIL", "a@example.org"),
                                               ("DATE", "2024-05-06T07:08:09+00:00"))}  # fmt: skip
        done = subprocess.run(["git", *arguments], cwd=self.folder, env=env, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message: str, files: dict[str, str | bytes | None]) -> str:
        """A commit of texts by path; None removes a file."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        name = self.names[message.split("\n")[0]] = self.git("rev-parse", "HEAD")
        return name


def plain_commits(history: History) -> None:
    """A first commit, a fix, and commits that are told by their files alone."""
    history.commit("first", {"sums.py": CODE.replace(GUARD, ""), "tests/test_sums.py": LOW + MEAN})
    history.commit(MESSAGE, {"sums.py": CODE, "tests/test_sums.py": LOW + MEAN + HIGH})
    history.commit("only code", {"sums.py": CODE + HALF})
    history.commit("only tests", {"tests/test_more.py": LOW})
    history.commit("Latin", {"latin.py": b"NAME = '\xe9'  # no UTF-8\n", "tests/test_more.py": LOW + "\n"})
    (history.folder / "tests" / "link.py").symlink_to("test_more.py")
    history.commit("link", {"sums.py": CODE + HALF + "\n"})
    many = {f"tests/data/{number}.txt": "x\n" for number in range(40)}
    history.commit("many", {"sums.py": CODE + HALF, **many})
    history.git("rm", "-q", "-r", "tests/link.py", "tests/data", "latin.py")
    history.commit("swept", {"notes.md": "Sums.\n"})


def judged_commits(history: History) -> None:
    """Commits that only their tests tell apart, two of them fixes, one in a merge."""
    history.commit("unnoticed", {"sums.py": CODE + HALF + "\n", "tests/test_more.py": LOW + MEAN})
    new = "from sums import third\n\n\ndef test_third():\n    assert third(6) == 2\n"
    third = CODE + HALF + "\n\ndef third(x):\n    return x / 3\n"
    history.commit("new name", {"sums.py": third, "tests/test_third.py": new})
    wrong = "import sums\n\n\ndef test_wrong():\n    assert sums.half(4) == 3\n"
    history.commit("never right", {"sums.py": third + "\nSIX = 6\n", "tests/test_wrong.py": wrong})
    clock = ("import time\n\nimport sums\n\n\ndef test_clock():\n"
             "    assert hasattr(sums, 'SEVEN'), str(time.time_ns())\n")  # fmt: skip
    history.commit("clock", {"sums.py": third + "\nSEVEN = 8\n", "tests/test_clock.py": clock})
    history.commit("leans", {"sums.py": third + "\nSEVEN = 7\n", "tests/test_leans.py": LEANS})
    leaves = "import os\n\n\ndef test_leaves():\n    os._exit(3)\n"
    history.commit("leaves", {"sums.py": third + "\nSEVEN = 7  # days\n", "tests/test_leaves.py": leaves})
    history.git("rm", "-q", "tests/test_leaves.py", "tests/test_wrong.py", "tests/test_clock.py")
    history.commit("swept again", {"notes.md": "More sums.\n"})
    history.git("checkout", "-q", "-b", "side")
    floats = (third + "\nSEVEN = 7\n").replace("total += value", "total += float(value)")
    history.commit("Mean of strings", {"sums.py": floats, "tests/test_text.py": TEXT})
    history.git("checkout", "-q", "main")
    history.commit("beside", {"notes.md": "Many sums.\n"})
    history.git("merge", "-q", "--no-ff", "-m", "merge side", "side")
    none = "\n\ndef test_none():\n    assert sums.mean(None) == 0\n"
    history.commit("Tests get another name", {
        "sums.py": floats.replace("    if not values:\n        return 0\n", "    if values is None or not values:\n"
                                  "        return 0\n").replace("SEVEN = 7", "SEVEN = 7.0"),
        "tests/test_text.py": None, "tests/test_words.py": TEXT + none + "    assert repr(sums.SEVEN) == '7.0'\n",
    })  # fmt: skip
