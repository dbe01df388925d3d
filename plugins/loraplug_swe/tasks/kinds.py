"""Detects the kind of a task from its fields, and whether its patch is the fix or adds the bug.

Most data sets have a column `patch`. In nearly all it is the fix; in SWE-smith it puts the bug in. Signs for either
reading are looked for in keys and values, never in the name of the data set, which a file does not carry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from attrs import frozen

Fields = Mapping[str, Any]
Direction = Literal["fix", "bug", "both", "unclear", "none"]

_MULTI = "Multi-SWE-bench"
_SMITH_ID = re.compile(r"[^\s/]+__[^\s/]+\.[0-9a-f]{7,40}\.[A-Za-z]\w*")  # owner__name.abcdef12.func_basic__xyz
_BENCH_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*__[\w.-]+)-\d+")  # owner__name-123
_COMMIT = re.compile(r"[0-9a-fA-F]{40}(?:[0-9a-fA-F]{24})?")
_FIX_KEYS = ("test_patch", "environment_setup_commit", "hints_text", "pull_number", "issue_numbers", "install_config")
_FOREIGN = ("traj_id", "trajectory", "model_patch", "model_name_or_path")  # of rows that hold a model's attempt


@frozen
class Kind:
    """A kind of task.

    Attributes:
        name: for messages.
        direction: what its patch does: `fix`, `bug`, `both` if it has one of each, `unclear` if it could be either,
            `none` if its patch is neither.
        why: the evidence, for messages.
    """

    name: str
    direction: Direction
    why: str = ""

    @property
    def column(self) -> str:
        """The column that its one patch is in."""
        return "fix_patch" if self.name == _MULTI else "patch"


def kind_of(fields: Fields) -> Kind | None:
    """The kind of a task; None if it is not a task.

    Args:
        fields: the task's keys in lower case, without those that are null.
    """
    return next((Kind(name, way, why) for name, way, tell in _KINDS if (why := tell(fields)) is not None), None)


def _synth(fields: Fields) -> str | None:
    if _table(fields, "source") and (_table(fields, "bug") or _table(fields, "original")):
        return "source, bug and original"
    return None


def _multi(fields: Fields) -> str | None:
    return "fix_patch" if "fix_patch" in fields else None


def _attempt(fields: Fields) -> str | None:
    if not _flat(fields):
        return None
    return next((f"{key}, so patch is what a model wrote" for key in _FOREIGN if fields.get(key)), None)


def _smith(fields: Fields) -> str | None:
    if not _flat(fields):
        return None
    bug, fix = bug_signs(fields), fix_signs(fields)
    # a commit may have been added to SWE-smith's rows, which have none; two signs then outweigh it
    return ", ".join(bug) if bug and (not fix or (len(bug) > 1 and fix == ["base_commit"])) else None


def _bench(fields: Fields) -> str | None:
    if not _flat(fields):
        return None
    fix = fix_signs(fields)
    return ", ".join(fix) if fix and not bug_signs(fields) else None


def _rebench(fields: Fields) -> str | None:
    return _bench(fields) if fields.get("install_config") else None


def _unclear(fields: Fields) -> str | None:
    if not _flat(fields):
        return None
    bug, fix = bug_signs(fields), fix_signs(fields)
    if not bug:
        return "it has neither a base_commit, nor a test_patch, nor an id such as owner__name-123"
    return f"{', '.join(bug)} suggests a patch that adds the bug, {', '.join(fix)} for the fix"


_KINDS: tuple[tuple[str, Direction, Callable[[Fields], str | None]], ...] = (
    ("SWE-SYNTH", "both", _synth),
    (_MULTI, "fix", _multi),
    ("trajectory", "none", _attempt),
    ("SWE-smith", "bug", _smith),
    ("SWE-rebench", "fix", _rebench),
    ("SWE-bench", "fix", _bench),  # and all that have its columns, as SWE-Gym
    ("unknown", "unclear", _unclear),
)


def bug_signs(fields: Fields) -> list[str]:
    """Evidence for SWE-smith, whose patch adds the bug."""
    repo, image = (str(fields.get(key, "")).lower() for key in ("repo", "image_name"))
    signs = {
        "an instance_id such as owner__name.abcdef12.kind__hash": _SMITH_ID.fullmatch(str(fields["instance_id"])),
        "repo swesmith/…": repo.startswith("swesmith/"),
        "image_name with swesmith": "swesmith" in image,
    }
    return [sign for sign, there in signs.items() if there]


def fix_signs(fields: Fields) -> list[str]:
    """Evidence for a row with SWE-bench's columns, whose patch is the fix."""
    signs = ["base_commit"] if _COMMIT.fullmatch(str(fields.get("base_commit", "")).strip()) else []
    signs += [key for key in _FIX_KEYS if fields.get(key) not in ("", [], {}, "[]", "{}", None)]
    repo = str(fields.get("repo", "")).strip().lower().replace("/", "__")
    match = _BENCH_ID.fullmatch(str(fields["instance_id"]))
    if match and (not repo or match["repo"].lower() == repo):
        signs.append("an instance_id such as owner__name-123")
    return signs


def _flat(fields: Fields) -> bool:
    return "instance_id" in fields and "patch" in fields


def _table(fields: Fields, key: str) -> bool:
    value = fields.get(key)
    return isinstance(value, Mapping) or (isinstance(value, str) and value.lstrip().startswith("{"))
