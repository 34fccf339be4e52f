"""Exploration: propensities are exact, and labels come as often as they say."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveloop.errors import Misconfigured
from liveloop.policy import TICKETS, Policy
from liveloop.settings import load_settings

POLICIES = ("argmax", "epsilon:0.1", "epsilon:1", "epsilon:0", "temperature:0.5", "temperature:1", "temperature:3")
PROBABILITIES = (0.5, 0.25, 0.125, 0.1, 0.025)
DRAWS = 40_000

probabilities = st.lists(st.floats(0.0, 1.0, width=32), min_size=2, max_size=9).filter(lambda found: sum(found) > 0)


def ids(count: int, seed: int) -> list[str]:
    random = Random(seed)
    return [str(uuid.UUID(int=random.getrandbits(128))) for _ in range(count)]


@given(probabilities, st.sampled_from(POLICIES))
def test_propensities_sum_to_one_exactly_as_32_bit_floats_too(found: list[float], name: str) -> None:
    tickets = Policy.parse(name).tickets(found, found.index(max(found)))
    assert sum(tickets) == TICKETS
    propensities = [one / TICKETS for one in tickets]
    assert [float(np.float32(one)) for one in propensities] == propensities
    assert float(np.sum(np.array(propensities, np.float32))) == 1.0


@given(probabilities, st.sampled_from(POLICIES), st.uuids())
def test_what_is_chosen_had_a_chance(found: list[float], name: str, prediction_id: uuid.UUID) -> None:
    policy, best = Policy.parse(name), found.index(max(found))
    label, propensity = policy.choose(found, best, str(prediction_id))
    assert 0.0 < propensity <= 1.0
    assert propensity == policy.tickets(found, best)[label] / TICKETS
    assert policy.choose(found, best, str(prediction_id)) == (label, propensity)


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "argmax"])
def test_labels_come_as_often_as_their_propensities_say(name: str) -> None:
    policy = Policy.parse(name)
    chosen = Counter(policy.choose(PROBABILITIES, 0, one)[0] for one in ids(DRAWS, seed=7))
    expected = [DRAWS * tickets / TICKETS for tickets in policy.tickets(PROBABILITIES, 0)]
    assert all(due or not chosen[label] for label, due in enumerate(expected))
    chi_square = sum((chosen[label] - due) ** 2 / due for label, due in enumerate(expected) if due)
    assert chi_square < 23.5  # 4 degrees of freedom: 1 in 10,000


def test_epsilon_gives_the_best_label_what_the_others_leave() -> None:
    tickets = Policy.parse("epsilon:0.1").tickets(PROBABILITIES, 0)
    assert [one / TICKETS for one in tickets] == pytest.approx([0.92, 0.02, 0.02, 0.02, 0.02], abs=1 / TICKETS)


def test_a_temperature_of_one_is_the_models_own_distribution() -> None:
    tickets = Policy.parse("temperature:1").tickets(PROBABILITIES, 0)
    assert [one / TICKETS for one in tickets] == pytest.approx(PROBABILITIES, abs=1 / TICKETS)


@pytest.mark.parametrize("name", ["argmax", "epsilon:0", "temperature:1e-9", "temperature:0.02"])
def test_without_heat_every_policy_takes_the_best_label(name: str) -> None:
    policy = Policy.parse(name)
    assert {policy.choose(PROBABILITIES, 0, one) for one in ids(500, seed=1)} == {(0, 1.0)}


def test_great_heat_makes_all_labels_as_likely() -> None:
    tickets = Policy.parse("temperature:1e9").tickets(PROBABILITIES, 0)
    assert max(tickets) - min(tickets) <= 1


@pytest.mark.parametrize(
    "text", ["", "best", "epsilon", "epsilon:", "epsilon:1.1", "epsilon:-0.1", "epsilon:nan", "temperature:0", "argmax:1"]
)
def test_a_policy_that_makes_no_sense_is_refused_when_the_settings_are_read(text: str) -> None:
    with pytest.raises(Misconfigured, match="policy"):
        load_settings(policy=text)


def test_a_policy_is_known_by_what_was_set() -> None:
    assert Policy.parse(load_settings(policy="epsilon:0.05").policy).name == "epsilon:0.05"
    assert math.isclose(sum(Policy.parse(load_settings().policy).tickets(PROBABILITIES, 0)), TICKETS)
