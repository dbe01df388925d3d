"""The dataset source `git-log`: commits of a local repository as rows."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from attrs import field, frozen, validators

from loraplug import DatasetSource, Doc, InputError, Run

if TYPE_CHECKING:
    from datasets import Dataset

ASK = {
    "message": "Write the commit message for this change.",
    "patch": "Write the change that this commit message describes, as a unified diff.",
}
_TRAILER = re.compile(r"(?:[A-Z][\w-]*-by|Change-Id|Cc): .*")


@frozen
class GitLog(DatasetSource):
    """Commits of a local git repository: from a diff to its message, or from a message to its diff."""

    name = "git-log"
    path: Annotated[Path, Doc("the repository's folder")]
    answer: Annotated[Literal["message", "patch"], Doc("what the model is to write; it is shown the other")] = "message"
    revision: Annotated[str, Doc("take this branch, tag or commit and what came before it")] = field(
        default="HEAD", validator=validators.matches_re(r"[^-\0][^\0]*")
    )
    limit: Annotated[int, Doc("look at only so many commits, the newest first")] = field(
        default=1000, validator=validators.ge(1)
    )
    longest: Annotated[int, Doc("leave out diffs of more characters")] = field(default=8000, validator=validators.ge(1))
    shortest: Annotated[int, Doc("leave out messages of fewer characters")] = field(
        default=10, validator=validators.ge(0)
    )
    context: Annotated[int, Doc("unchanged lines shown around each change")] = field(
        default=3, validator=[validators.ge(0), validators.le(1000)]
    )

    def load(self, run: Run) -> Dataset:
        """Rows of the shape instruction / response, the newest commit first; `instance_id` is the commit's."""
        from datasets import Dataset

        commits = self._commits()
        rows, left_out = [], Counter[str]()
        with run.progress("reading commits", len(commits)) as bar:
            for commit in commits:
                row = self._row(commit)
                if isinstance(row, str):
                    left_out[row] += 1
                else:
                    rows.append(row)
                bar.advance(1, kept=len(rows))
        for reason, count in sorted(left_out.items()):
            run.say(f"git-log: {count} of {len(commits)} commits left out: {reason}")
        if not rows:
            raise InputError("no commit is left", where=self.path, todo="raise longest or limit, or lower shortest")
        return Dataset.from_list(rows)

    def _commits(self) -> list[str]:
        options = ["--no-merges", f"--max-count={self.limit}", "--format=%H", "--end-of-options", self.revision, "--"]
        return self._git("log", *options).decode("ascii").split()

    def _row(self, commit: str) -> dict[str, str] | str:
        """The row of a commit, or why it makes none."""
        raw = self._git("show", "--no-patch", "--format=%B", commit)
        shown = ("--format=", f"--unified={self.context}", "--no-ext-diff", "--no-textconv", "--no-renames")
        diff = self._git("show", *shown, "--no-color", "--src-prefix=a/", "--dst-prefix=b/", commit)
        try:
            message, patch = without_trailers(raw.decode("utf-8")), diff.decode("utf-8")
        except UnicodeDecodeError:
            return "not UTF-8"
        if not patch.strip():
            return "changes nothing"
        if re.search(r"^Binary files .* differ$", patch, re.M):
            return "changes a binary file"
        if len(patch) > self.longest:
            return f"the diff is over {self.longest} characters"
        if len(message) < self.shortest:
            return f"the message is under {self.shortest} characters"
        shown_text, wanted = (patch, message) if self.answer == "message" else (message, patch)
        return {"instance_id": commit, "instruction": ASK[self.answer], "input": shown_text, "response": wanted}

    def _git(self, *words: str) -> bytes:
        """What git prints; the repository's own settings can start no program."""
        safe = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=", "-c", "log.showSignature=false"]
        command = ["git", "--no-pager", *safe, "-C", str(self.path), *words]
        try:
            return subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout
        except FileNotFoundError:
            raise InputError("git is not installed", where="dataset git-log", todo="install git") from None
        except subprocess.CalledProcessError as error:
            said = " ".join(error.stderr.decode("utf-8", "replace").split()) or f"git gave up ({error.returncode})"
            todo = "name the folder of a git repository, and a revision that it has"
            raise InputError(said, where=f"dataset.path {self.path}", todo=todo) from None


def without_trailers(message: str) -> str:
    """The message without the lines at its end that name people and reviews."""
    lines = message.strip().splitlines()
    while lines and (not lines[-1].strip() or _TRAILER.fullmatch(lines[-1])):
        lines.pop()
    return "\n".join(lines)
