"""The books of a library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tidyshelf.text import sort_title


@dataclass(frozen=True)
class Book:
    """One book, known by its id."""

    id: str
    title: str
    author: str
    year: int
    tags: tuple[str, ...] = ()


class Catalog:
    """All books of a library."""

    def __init__(self) -> None:
        """Make an empty catalog."""
        self._books: dict[str, Book] = {}

    def __len__(self) -> int:
        """Return the number of books."""
        return len(self._books)

    def __iter__(self) -> Iterator[Book]:
        """Yield the books in the order they were added."""
        return iter(self._books.values())

    def add(self, book: Book) -> None:
        """Add a book; its id must be new."""
        if book.id in self._books:
            raise ValueError(f"book id already used: {book.id}")
        self._books[book.id] = book

    def remove(self, book_id: str) -> Book:
        """Take a book out and return it."""
        if book_id not in self._books:
            raise KeyError(book_id)
        return self._books.pop(book_id)

    def by_author(self, name: str) -> list[Book]:
        """Return an author's books, oldest first; case does not matter."""
        wanted = name.strip().lower()
        found = [book for book in self if book.author.lower() == wanted]
        return sorted(found, key=lambda book: book.year)

    def search(self, words: str) -> list[Book]:
        """Return books whose title or author holds every word."""
        wanted = words.lower().split()
        found = []
        for book in self:
            text = f"{book.title} {book.author}".lower()
            if all(word in text for word in wanted):
                found.append(book)
        return found

    def sorted_by_title(self) -> list[Book]:
        """Return all books in shelf order."""
        return sorted(self, key=lambda book: (sort_title(book.title), book.year))

    def newest(self, count: int = 5) -> list[Book]:
        """Return the latest books, newest first."""
        ordered = sorted(self, key=lambda book: book.year, reverse=True)
        return ordered[:count]

    def by_decade(self) -> dict[int, list[str]]:
        """Group book titles by the decade of their year."""
        groups: dict[int, list[str]] = {}
        for book in self:
            decade = book.year // 10 * 10
            groups.setdefault(decade, []).append(book.title)
        return dict(sorted(groups.items()))

    def with_tags(self, *tags: str) -> list[Book]:
        """Return books that carry all the given tags."""
        wanted = {tag.lower() for tag in tags}
        return [book for book in self if wanted <= {tag.lower() for tag in book.tags}]
