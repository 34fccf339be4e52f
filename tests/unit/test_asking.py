"""What is worth a judgement: the budget is kept whatever comes, and goes to the most doubtful answers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.asking import Asking

ANSWERS = 5000


def asked(share: float, probabilities: list[float]) -> list[bool]:
    asking = Asking(share)
    return [asking.worth(probability) for probability in probabilities]


@given(st.floats(0.01, 0.9), st.lists(st.floats(0.0, 1.0), max_size=300), st.integers(1, 20))
def test_what_was_asked_stays_near_the_share_whatever_comes(share: float, probabilities: list[float], times: int) -> None:
    asking, said = Asking(share), 0
    for count, probability in enumerate(probabilities * times, start=1):
        said += asking.worth(probability)
        assert -8.0 / share - 1 <= said - share * count <= 8.0 + 1e-6


DISTRIBUTIONS: dict[str, Callable[[Random], float]] = {
    "uniform": Random.random,
    "mostly sure": lambda random: random.betavariate(8, 1),
    "two values": lambda random: random.choice([0.5, 0.99]),
    "all alike": lambda _: 0.7,
}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_share_is_kept_on_any_distribution_from_the_first_answer_on(share: float, name: str) -> None:
    random = Random(1)
    said = asked(share, [DISTRIBUTIONS[name](random) for _ in range(ANSWERS)])
    for upto in (100, 1000, ANSWERS):
        assert abs(sum(said[:upto]) - share * upto) <= 8


def test_the_most_doubtful_answers_are_asked_about() -> None:
    random = Random(4)
    probabilities = [random.random() for _ in range(ANSWERS)]
    said = asked(0.1, probabilities)
    doubts = sorted((min(one, 1 - one) for one in probabilities), reverse=True)
    worthy = doubts[round(0.1 * ANSWERS)]
    chosen = [min(one, 1 - one) for one, yes in zip(probabilities, said, strict=True) if yes]
    assert sum(doubt > worthy for doubt in chosen) > 0.85 * len(chosen)


def test_a_label_far_below_one_half_is_as_little_worth_as_one_far_above() -> None:
    probabilities = [0.02, 0.5, 0.98] * 500
    said = asked(0.2, probabilities)
    assert {one for one, yes in zip(probabilities[600:], said[600:], strict=True) if yes} == {0.5}


def test_nothing_or_everything_is_asked_at_the_ends() -> None:
    assert not any(asked(0.0, [0.5] * 100))
    assert all(asked(1.0, [0.99] * 100))
