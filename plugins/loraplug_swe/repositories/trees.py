"""Small trees built in memory and written to git as one pack, instead of one loose file each.

The formats are those of git's documentation: tree objects (`gitformat-tree` order: folders sort as if their name ended
in a slash) and version 2 packs (`gitformat-pack`).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from loraplug_swe.repositories.objects import TREE, Node

_TREE_TYPE = 2


class TreePack:
    """Collects trees for a repository whose object names have `width` hexadecimal digits (40 or 64)."""

    def __init__(self, width: int) -> None:
        self._hash = hashlib.sha1 if width == 40 else hashlib.sha256
        self._trees: dict[str, bytes] = {}

    def add(self, files: Mapping[str, Node]) -> str:
        """Add a tree with exactly these files, and return its object name; folders follow from the paths."""
        nested: dict[str, Any] = {}
        for path, node in files.items():
            *folders, name = path.split("/")
            at = nested
            for folder in folders:
                at = at.setdefault(folder, {})
            at[name] = node
        return self._tree(nested)

    def pack(self) -> bytes:
        """All trees added, as a pack."""
        parts = [b"PACK" + (2).to_bytes(4, "big") + len(self._trees).to_bytes(4, "big")]
        for raw in self._trees.values():
            parts += [_entry_head(len(raw)), zlib.compress(raw, 1)]
        body = b"".join(parts)
        return body + self._hash(body).digest()

    def _tree(self, nested: Mapping[str, Any]) -> str:
        nodes = (
            (name, item if isinstance(item, Node) else Node(TREE, self._tree(item))) for name, item in nested.items()
        )
        raw = b"".join(_raw_entries(nodes))
        oid = self._hash(b"tree %d\0" % len(raw) + raw).hexdigest()
        self._trees[oid] = raw
        return oid


def _raw_entries(nodes: Iterable[tuple[str, Node]]) -> list[bytes]:
    named = sorted(
        ((name.encode() + (b"/" if node.mode == TREE else b""), node) for name, node in nodes), key=lambda one: one[0]
    )
    return [
        node.mode.encode() + b" " + name.removesuffix(b"/") + b"\0" + bytes.fromhex(node.oid) for name, node in named
    ]


def _entry_head(size: int) -> bytes:
    """Type and size of a packed object: four bits of the size in the first byte, then seven a byte."""
    byte, size = _TREE_TYPE << 4 | size & 15, size >> 4
    head = bytearray()
    while size:
        head.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    head.append(byte)
    return bytes(head)
