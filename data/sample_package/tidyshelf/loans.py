"""Lending, returning and renewing books."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date

from tidyshelf.dates import days_overdue, due_date
from tidyshelf.money import late_fee

MAX_RENEWALS = 2


class LoanError(Exception):
    """A loan that the rules of the library do not allow."""


@dataclass(frozen=True)
class Loan:
    """One book lent to one member."""

    book_id: str
    member: str
    due: date
    renewals: int = 0


class LoanDesk:
    """Keeps track of who has which book."""

    def __init__(self, limit: int = 5, holidays: Collection[date] | None = None) -> None:
        """Make a desk where a member may hold limit books at a time."""
        self.limit = limit
        self.holidays = set(holidays or ())
        self._loans: dict[str, Loan] = {}

    def close_on(self, day: date) -> None:
        """Add a holiday; loans made from now on are not due on it."""
        self.holidays.add(day)

    def loans_of(self, member: str) -> list[Loan]:
        """Return the loans of a member, the first due first."""
        found = [loan for loan in self._loans.values() if loan.member == member]
        return sorted(found, key=lambda loan: loan.due)

    def check_out(self, book_id: str, member: str, today: date) -> Loan:
        """Lend a book to a member."""
        if book_id in self._loans:
            raise LoanError(f"already lent: {book_id}")
        if len(self.loans_of(member)) >= self.limit:
            raise LoanError(f"limit reached: {member}")
        loan = Loan(book_id, member, due_date(today, holidays=self.holidays))
        self._loans[book_id] = loan
        return loan

    def give_back(self, book_id: str, today: date) -> int:
        """Take a book back and return the late fee in cents."""
        if book_id not in self._loans:
            raise LoanError(f"not lent: {book_id}")
        loan = self._loans.pop(book_id)
        return late_fee(days_overdue(loan.due, today))

    def renew(self, book_id: str, today: date) -> Loan:
        """Lend a book for another period, counted from today."""
        loan = self._loans[book_id]
        if loan.renewals >= MAX_RENEWALS:
            raise LoanError(f"renewed too often: {book_id}")
        due = due_date(today, holidays=self.holidays)
        self._loans[book_id] = replace(loan, due=due, renewals=loan.renewals + 1)
        return self._loans[book_id]

    def overdue(self, today: date) -> list[Loan]:
        """Return the loans that should be back already, longest overdue first."""
        late = [loan for loan in self._loans.values() if loan.due < today]
        return sorted(late, key=lambda loan: (loan.due, loan.book_id))

    def fees_owed(self, member: str, today: date) -> int:
        """Return what a member would pay in fees if all books came back today."""
        return sum(late_fee(days_overdue(loan.due, today)) for loan in self.loans_of(member))
