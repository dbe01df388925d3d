"""White space beside special tokens, which some tokenizers drop.

A GGUF file has no key for it. llama.cpp drops it behind special tokens where the name in the file has "phi-3" or "phi3"
in it, and does not load such a file if it lacks a token of Phi-3's. So the name follows from the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CALLED = re.compile("phi-?3", re.IGNORECASE)
_KEEP = frozenset({"<unk>", "<s>", "<|endoftext|>"})  # behind these Phi-3 drops nothing
_NEEDED = _KEEP | {"</s>"}


def file_name(name: str, tokenizer: Mapping[str, Any]) -> str:
    """A name for a file's header by which llama.cpp reads text as the tokenizer does.

    Args:
        name: what the file is to be called.
        tokenizer: its tokenizer.json.
    """
    if not _as_phi3(tokenizer):
        return _CALLED.sub("Phi 3", name)
    return name if _CALLED.search(name) else f"{name} (Phi-3)"


def unlike(tokenizer: Mapping[str, Any]) -> str | None:
    """What llama.cpp would read otherwise; None where it drops the same white space, or neither drops any."""
    dropping = [one["content"] for one in _added(tokenizer) if one.get("lstrip") or one.get("rstrip")]
    if not dropping or _as_phi3(tokenizer):
        return None
    more = f" and {len(dropping) - 1} other tokens" if len(dropping) > 1 else ""
    return f"the tokenizer drops white space beside {dropping[0]}{more}, and llama.cpp keeps it"


def _as_phi3(tokenizer: Mapping[str, Any]) -> bool:
    added = _added(tokenizer)
    if not {one["content"] for one in added} >= _NEEDED:
        return False
    return all(not one.get("lstrip") and bool(one.get("rstrip")) == (one["content"] not in _KEEP) for one in added)


def _added(tokenizer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(tokenizer.get("added_tokens") or ())
