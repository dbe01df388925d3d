"""Directed graphs as mappings from a node to the nodes it points to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

Graph = Mapping[str, Iterable[str]]


def invert(graph: Graph) -> dict[str, list[str]]:
    """Return the graph with every arrow turned around."""
    result: dict[str, list[str]] = {node: [] for node in graph}
    for node, targets in graph.items():
        for target in targets:
            result.setdefault(target, []).append(node)
    return result


def reachable(graph: Graph, start: str) -> set[str]:
    """Return every node that can be reached from start, without start."""
    seen = {start}
    stack = [start]
    while stack:
        for target in graph.get(stack.pop(), ()):
            if target not in seen:
                seen.add(target)
                stack.append(target)
    return seen - {start}


def shortest_path(graph: Graph, start: str, goal: str) -> list[str] | None:
    """Return the path with the fewest steps, or None when there is none."""
    queue = deque([[start]])
    seen = {start}
    while queue:
        path = queue.popleft()
        if path[-1] == goal:
            return path
        for target in graph.get(path[-1], ()):
            if target not in seen:
                seen.add(target)
                queue.append([*path, target])
    return None


def reading_order(needs: Graph) -> list[str]:
    """Order books so that each follows the ones it needs, else by name."""
    waiting = {book: set(before) for book, before in needs.items()}
    for book in {name for before in needs.values() for name in before}:
        waiting.setdefault(book, set())
    order: list[str] = []
    while waiting:
        ready = sorted(book for book, before in waiting.items() if not before)
        if not ready:
            raise ValueError(f"books need each other: {sorted(waiting)}")
        order.append(ready[0])
        del waiting[ready[0]]
        for before in waiting.values():
            before.discard(ready[0])
    return order


def has_cycle(graph: Graph) -> bool:
    """Say whether some node can reach itself."""
    for node, targets in graph.items():
        for target in targets:
            if target == node or node in reachable(graph, target):
                return True
    return False
