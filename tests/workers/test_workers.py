"""One way to spread work: in order, with what is known, over workers that die, fail or are slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from worker_jobs import Squares

from loraplug import InputError, Job, LoraplugError, Workers
from loraplug.workers.crew import Crew, WorkerLostError


@pytest.mark.parametrize("how", ["threads", "processes"])
def test_results_come_in_order_with_what_is_known(how: Literal["threads", "processes"]) -> None:
    told: dict[int, int] = {}
    recall = {3: -3}.get
    done = Workers().map(Squares(), range(20), how, count=2, recall=recall, record=told.__setitem__)
    assert list(done) == [(item, -3 if item == 3 else item * item) for item in range(20)]
    assert told == {item: item * item for item in range(20) if item != 3}  # what is known is not recorded again


@pytest.mark.parametrize("how", ["threads", "processes"])
def test_an_error_of_an_item_is_that_of_its_place(how: Literal["threads", "processes"]) -> None:
    done = Workers().map(Squares(), [1, -1, 2], how, count=2)
    assert next(done) == (1, 1)
    with pytest.raises(InputError, match="is negative") as caught:
        next(done)
    assert caught.value.where == "item -1"
    assert caught.value.todo == "give another"


def test_a_process_that_dies_is_replaced(tmp_path: Path) -> None:
    job = Squares(dies=4, mark=tmp_path / "died")
    assert [result for _, result in Workers().map(job, range(8), "processes", count=2)] == [n * n for n in range(8)]
    assert (tmp_path / "died").exists()


def test_an_item_that_kills_every_worker_is_told() -> None:
    with pytest.raises(LoraplugError, match="3 workers died on one item"):
        list(Workers().map(Squares(dies=0), [0], "processes", count=1))


def test_a_worker_that_cannot_be_made_ready_fails_the_work() -> None:
    class Broken(Job[int, int]):
        @contextmanager
        def start(self, folder: Path | None) -> Iterator[Callable[[int], int]]:
            raise InputError("no tests here")
            yield

    with pytest.raises(InputError, match="no tests here"):
        list(Workers().map(Broken(), range(100), count=2))


def test_all_is_let_go_of_when_enough_is_done() -> None:
    open_workers: set[int] = set()
    threads = threading.active_count()

    class Held(Job[int, int]):
        @contextmanager
        def start(self, folder: Path | None) -> Iterator[Callable[[int], int]]:
            open_workers.add(threading.get_ident())
            yield abs
            open_workers.remove(threading.get_ident())

    with closing(Workers().map(Held(), iter(range(10**9)), count=3)) as done:
        for item, _ in done:
            assert open_workers
            if item == 50:
                break
    assert not open_workers
    assert threading.active_count() == threads


class _Slow:
    """Takes a minute for item 5 where it is the first worker that gets it."""

    def __init__(self, first: threading.Event, end: threading.Event) -> None:
        self.first, self.end = first, end

    def work(self, item: int) -> int:
        if item == 5 and not self.first.is_set():
            self.first.set()
            self.end.wait(60)
        return item

    def close(self) -> None:
        """Nothing is held."""


def test_a_late_item_is_given_to_another_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loraplug.workers.crew._LEAST_LATE", 0.1)
    first, end, told = threading.Event(), threading.Event(), list[int]()
    begun = time.monotonic()
    with Crew[int, int](2, lambda _: _Slow(first, end), lambda item, _: told.append(item), twice=True) as crew:
        assert [result for _, result in crew.in_order(range(12))] == list(range(12))
        assert first.is_set()
        end.set()
    assert time.monotonic() - begun < 30
    assert sorted(told) == list(range(12))  # the second result of item 5 is not recorded


def test_others_work_on_while_a_dead_worker_waits_for_its_replacement() -> None:
    hired: list[Any] = []

    class Dying:
        def work(self, item: int) -> int:
            raise WorkerLostError("gone")

        def close(self) -> None:
            """Nothing is held."""

    def hire(stopped: Callable[[], bool]) -> Any:
        hired.append(1)
        if len(hired) == 1:
            return Dying()
        if len(hired) > 2:  # no processor is free for a third
            while not stopped():
                time.sleep(0.05)
            raise WorkerLostError("stopped")
        return _Slow(threading.Event(), ended)

    ended = threading.Event()
    ended.set()
    with Crew[int, int](2, hire) as crew:
        assert [result for _, result in crew.in_order(range(10))] == list(range(10))


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"address": "auto:1"}, 'set use = "ray"'),
        ({"use": "ray", "address": "ray://head:10001"}, "neither"),
        ({"use": "ray", "count": -1}, "count"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(table: dict[str, Any], told: str) -> None:
    with pytest.raises((InputError, ValueError), match=told):
        Workers(**table)


def test_ray_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from loraplug.workers import cluster

    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    cluster.connect.cache_clear()
    (problem,) = Workers("ray").preflight()
    assert str(problem) == 'workers.use: Ray is not installed; pip install "ray>=2.60"'


def test_a_head_that_does_not_answer_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from loraplug.workers import cluster

    monkeypatch.setattr(cluster, "find_spec", lambda name: object())
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        begun = time.monotonic()
        (problem,) = Workers("ray", address).preflight()
    assert problem.path == "workers.address"
    assert f"{address} does not answer" in problem.message
    assert time.monotonic() - begun < 10
