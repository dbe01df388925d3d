"""Tests for tidyshelf.catalog."""

import pytest

from tidyshelf.catalog import Book, Catalog

HOBBIT = Book("b1", "The Hobbit", "J. R. R. Tolkien", 1937, ("Fantasy", "classic"))
DUNE = Book("b2", "Dune", "Frank Herbert", 1965, ("desert", "classic"))
MESSIAH = Book("b3", "Dune Messiah", "Frank Herbert", 1969, ("desert",))
KINDRED = Book("b4", "Kindred", "Octavia Butler", 1979)


@pytest.fixture
def catalog() -> Catalog:
    """Return a catalog of four books, not in any order."""
    result = Catalog()
    for book in (MESSIAH, HOBBIT, KINDRED, DUNE):
        result.add(book)
    return result


def test_add_refuses_an_id_twice(catalog: Catalog) -> None:
    with pytest.raises(ValueError):
        catalog.add(Book("b1", "Other", "Other", 2000))
    assert len(catalog) == 4


def test_remove_returns_the_book(catalog: Catalog) -> None:
    assert catalog.remove("b1") == HOBBIT
    assert len(catalog) == 3


def test_remove_refuses_unknown_ids(catalog: Catalog) -> None:
    with pytest.raises(KeyError):
        catalog.remove("b9")


def test_by_author_sorts_by_year(catalog: Catalog) -> None:
    assert catalog.by_author("Frank Herbert") == [DUNE, MESSIAH]


def test_by_author_ignores_case(catalog: Catalog) -> None:
    assert catalog.by_author(" octavia BUTLER ") == [KINDRED]


def test_search_needs_every_word(catalog: Catalog) -> None:
    assert catalog.search("herbert MESSIAH") == [MESSIAH]
    assert catalog.search("herbert kindred") == []


def test_search_for_nothing_finds_all(catalog: Catalog) -> None:
    assert len(catalog.search("")) == 4


def test_sorted_by_title_ignores_articles(catalog: Catalog) -> None:
    assert catalog.sorted_by_title() == [DUNE, MESSIAH, HOBBIT, KINDRED]


def test_newest_comes_first(catalog: Catalog) -> None:
    assert catalog.newest(2) == [KINDRED, MESSIAH]


def test_by_decade_groups_titles(catalog: Catalog) -> None:
    assert catalog.by_decade() == {1930: ["The Hobbit"], 1960: ["Dune Messiah", "Dune"], 1970: ["Kindred"]}


def test_with_tags_needs_all_tags(catalog: Catalog) -> None:
    assert catalog.with_tags("Classic") == [HOBBIT, DUNE]
    assert catalog.with_tags("classic", "fantasy") == [HOBBIT]
