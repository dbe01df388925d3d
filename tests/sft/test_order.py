"""Which rows a step takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loraplug_train.engine.schedule import build_schedule, micro_batches, partition_by_length

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(LENGTHS, st.integers(0, 9), st.integers(1, 3), st.integers(1, 7))
def test_every_row_comes_once_an_epoch(lengths: list[int], seed: int, epochs: int, size: int) -> None:
    """Whole epochs, each with every row once, in another order for another epoch or seed."""
    order = build_schedule(lengths, seed, epochs, batch_size=size)
    rows = [row for step in order.steps for row in step]
    for epoch in range(epochs):
        assert sorted(rows[epoch * len(lengths) : (epoch + 1) * len(lengths)]) == list(range(len(lengths)))
    assert order.steps == build_schedule(lengths, seed, epochs, batch_size=size).steps
    assert order.epoch(len(order.steps)) == epochs


@given(LENGTHS, st.integers(1, 120))
def test_a_step_by_tokens_is_as_full_as_can_be(lengths: list[int], budget: int) -> None:
    """No step is over the budget unless it is a single row, and the next row would not have fitted."""
    steps = build_schedule(lengths, 0, 1, tokens_per_step=budget).steps
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        tokens = sum(lengths[row] for row in step)
        assert tokens <= budget or len(step) == 1
        assert following is None or tokens + lengths[following[0]] > budget


def test_parts_of_an_epoch_and_counted_steps() -> None:
    """Half an epoch is half its steps, rounded up; max_steps cuts or goes on over further epochs."""
    assert len(build_schedule([1] * 10, 0, 1.5, batch_size=2).steps) == 8
    assert len(build_schedule([1] * 10, 0, 0.01, batch_size=2).steps) == 1
    assert len(build_schedule([1] * 10, 0, 1, max_steps=3, batch_size=2).steps) == 3
    assert len(build_schedule([1] * 10, 0, 1, max_steps=13, batch_size=2).steps) == 13


def test_the_order_is_that_of_the_usual_sampler() -> None:
    """The first epoch has the very order of accelerate's seeded sampler, which trl takes for the same seed."""
    from accelerate.data_loader import SeedableRandomSampler

    sampler = SeedableRandomSampler(range(23), data_seed=42)
    assert [row for step in build_schedule([1] * 23, 42, 1).steps for row in step] == list(sampler)


@given(LENGTHS, st.integers(1, 5))
def test_processes_share_a_step_without_gap_or_overlap(lengths: list[int], world: int) -> None:
    """Every row of the step is computed by exactly one process, and loads differ by at most one row."""
    parts = partition_by_length(lengths, world)
    assert len(parts) == world
    assert sorted(at for part in parts for at in part) == list(range(len(lengths)))
    loads = [sum(lengths[at] for at in part) for part in parts]
    assert max(loads) - min(loads) <= max(lengths)


@given(LENGTHS, st.integers(1, 5), st.none() | st.integers(1, 60))
def test_micro_batches_keep_to_their_limits(lengths: list[int], rows: int, tokens: int | None) -> None:
    """All positions in order; no batch over either limit but for a single row."""
    batches = micro_batches(lengths, rows, tokens)
    assert [at for batch in batches for at in batch] == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= rows
        assert tokens is None or len(batch) == 1 or sum(lengths[at] for at in batch) <= tokens
