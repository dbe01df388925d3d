"""Tests for tidyshelf.graph."""

import pytest

from tidyshelf import graph

LINKS = {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": ["e"]}


def test_invert_turns_arrows_around() -> None:
    assert graph.invert({"a": ["b", "c"], "b": ["c"]}) == {"a": [], "b": ["a"], "c": ["a", "b"]}


def test_invert_keeps_single_nodes() -> None:
    assert graph.invert({"alone": []}) == {"alone": []}


def test_reachable_follows_all_arrows() -> None:
    assert graph.reachable(LINKS, "b") == {"d", "e"}


def test_reachable_leaves_out_the_start() -> None:
    assert graph.reachable({"a": ["b"], "b": ["a"]}, "a") == {"b"}


def test_shortest_path_takes_the_fewest_steps() -> None:
    links = {"a": ["e", "b"], "b": ["c"], "c": ["d"], "e": ["d", "b"]}
    assert graph.shortest_path(links, "a", "d") == ["a", "e", "d"]
    assert graph.shortest_path(links, "a", "b") == ["a", "b"]


def test_shortest_path_may_not_exist() -> None:
    assert graph.shortest_path(LINKS, "e", "a") is None
    assert graph.shortest_path(LINKS, "a", "a") == ["a"]


def test_reading_order_puts_needs_first() -> None:
    assert graph.reading_order({"part 2": ["part 1"], "part 1": [], "atlas": []}) == ["atlas", "part 1", "part 2"]


def test_reading_order_knows_books_only_named_as_needs() -> None:
    assert graph.reading_order({"sequel": ["first"]}) == ["first", "sequel"]


def test_reading_order_refuses_circles() -> None:
    with pytest.raises(ValueError):
        graph.reading_order({"a": ["b"], "b": ["a"]})


def test_has_cycle_finds_long_circles() -> None:
    assert graph.has_cycle({"a": ["b"], "b": ["c"], "c": ["a"]})
    assert not graph.has_cycle(LINKS)


def test_has_cycle_finds_links_to_itself() -> None:
    assert graph.has_cycle({"a": ["a"]})
