"""Which rows stand after resets, against a walk over every row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.learner.lineage import is_in, standing, without


@st.composite
def histories(draw: st.DrawFn) -> list[int]:
    """For each row from 1 on the row whose state it went on from: the one before it, or any earlier one where it is a reset."""
    length = draw(st.integers(1, 40))
    return [draw(st.sampled_from([row - 1, draw(st.integers(0, row - 1))])) for row in range(1, length + 1)]


def ancestors(history: list[int], row: int) -> set[int]:
    """`row` and all it descends from."""
    found = set()
    while row:
        found.add(row)
        row = history[row - 1]
    return found


def resets_of(history: list[int]) -> list[tuple[int, int]]:
    return [(row, to) for row, to in enumerate(history, 1) if to != row - 1][::-1]


def rows_in(spans: list[tuple[int, int]]) -> set[int]:
    return {row for row in range(1, 100) if is_in(spans, row)}


@given(histories(), st.data())
def test_a_state_descends_from_the_rows_that_a_walk_back_meets(history: list[int], data: st.DataObject):
    row = data.draw(st.integers(0, len(history)))
    assert rows_in(standing(resets_of(history), row)) == ancestors(history, row)


@given(histories(), st.data())
def test_what_a_reset_undoes_and_what_it_lets_stand_again_are_the_differences(history: list[int], data: st.DataObject):
    now, then = len(history), data.draw(st.integers(0, len(history)))
    ours, theirs = (standing(resets_of(history), row) for row in (now, then))
    assert rows_in(without(ours, theirs)) == ancestors(history, now) - ancestors(history, then)
    assert rows_in(without(theirs, ours)) == ancestors(history, then) - ancestors(history, now)
