"""Tests for tidyshelf.loans."""

from datetime import date

import pytest

from tidyshelf.loans import Loan, LoanDesk, LoanError

START = date(2024, 3, 1)
DUE = date(2024, 3, 22)


def test_check_out_sets_the_due_date() -> None:
    assert LoanDesk().check_out("b1", "ann", START) == Loan("b1", "ann", DUE)


def test_check_out_refuses_a_lent_book() -> None:
    desk = LoanDesk()
    desk.check_out("b1", "ann", START)
    with pytest.raises(LoanError):
        desk.check_out("b1", "bob", START)


def test_check_out_stops_at_the_limit() -> None:
    desk = LoanDesk(limit=2)
    desk.check_out("b1", "ann", START)
    desk.check_out("b2", "ann", START)
    desk.check_out("b3", "bob", START)
    with pytest.raises(LoanError):
        desk.check_out("b4", "ann", START)


def test_close_on_moves_later_loans() -> None:
    desk = LoanDesk()
    desk.close_on(DUE)
    assert desk.check_out("b1", "ann", START).due == date(2024, 3, 25)


def test_desks_do_not_share_holidays() -> None:
    LoanDesk().close_on(DUE)
    assert LoanDesk().check_out("b1", "ann", START).due == DUE


def test_loans_of_lists_the_first_due_first() -> None:
    desk = LoanDesk()
    desk.check_out("b1", "ann", date(2024, 3, 5))
    desk.check_out("b2", "bob", START)
    desk.check_out("b3", "ann", START)
    assert [loan.book_id for loan in desk.loans_of("ann")] == ["b3", "b1"]


def test_give_back_in_time_is_free() -> None:
    desk = LoanDesk()
    desk.check_out("b1", "ann", START)
    assert desk.give_back("b1", date(2024, 3, 8)) == 0


def test_give_back_late_costs_a_fee() -> None:
    desk = LoanDesk()
    desk.check_out("b1", "ann", START)
    assert desk.give_back("b1", date(2024, 3, 26)) == 100


def test_give_back_makes_the_book_free() -> None:
    desk = LoanDesk()
    desk.check_out("b1", "ann", START)
    desk.give_back("b1", START)
    assert desk.check_out("b1", "bob", START).member == "bob"


def test_give_back_refuses_books_not_lent() -> None:
    with pytest.raises(LoanError):
        LoanDesk().give_back("b1", START)


def test_renew_counts_from_today() -> None:
    desk = LoanDesk()
    desk.check_out("b1", "ann", START)
    assert desk.renew("b1", date(2024, 3, 11)) == Loan("b1", "ann", date(2024, 4, 1), 1)


def test_renew_stops_after_two_times() -> None:
    desk = LoanDesk()
    desk.check_out("b1", "ann", START)
    desk.renew("b1", START)
    desk.renew("b1", START)
    with pytest.raises(LoanError):
        desk.renew("b1", START)


def test_overdue_lists_late_loans_only() -> None:
    desk = LoanDesk()
    desk.check_out("b2", "ann", START)
    desk.check_out("b1", "bob", date(2024, 2, 1))
    desk.check_out("b3", "bob", date(2024, 3, 11))
    assert desk.overdue(DUE) == [Loan("b1", "bob", date(2024, 2, 22))]
    assert [loan.book_id for loan in desk.overdue(date(2024, 3, 25))] == ["b1", "b2"]


def test_fees_owed_adds_up_one_member() -> None:
    desk = LoanDesk()
    desk.check_out("b1", "ann", START)
    desk.check_out("b2", "ann", START)
    desk.check_out("b3", "bob", START)
    assert desk.fees_owed("ann", date(2024, 3, 24)) == 100
    assert desk.fees_owed("ann", START) == 0
