"""Packs rows into as few packs as possible within a token budget, without cutting any."""

from __future__ import annotations

from collections.abc import Sequence


def best_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Pack items so that no pack exceeds `budget`: best-fit decreasing (Johnson 1973; at most 11/9 of the fewest).

    Args:
        lengths: length of each item in tokens, each at most `budget`.
        budget: room of a pack in tokens.

    Returns:
        Packs as indices into `lengths`, in the order of their first item.
    """
    packs: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(budget + 1)]
    rooms = 0  # bit r is set while some pack has room for r more tokens
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[item]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, pack = budget, len(packs)
            packs.append([])
        packs[pack].append(item)
        with_room[room - length].append(pack)
        rooms |= 1 << (room - length)
    for pack_ in packs:
        pack_.sort()
    return sorted(packs)


def isolates(choice: bool | str) -> bool:
    """Whether to pack: `auto` packs on a GPU. On a CPU it was measured to be no faster than single rows."""
    if choice != "auto":
        return bool(choice)
    import torch

    return bool(torch.cuda.is_available())
