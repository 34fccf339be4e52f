"""What experts' words weigh in a step, and how much of it they have together. Pure; knows no table and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from liveloop.tasks import FeedbackExample
from services.learner.micro_batch import MicroBatch


def weighted(batch: MicroBatch, *, nominal: int, weight: float, share: float) -> tuple[FeedbackExample, ...]:
    """The feedback of a micro-batch with the weights that it trains with."""
    standing = batch.weights or [1.0] * len(batch.feedback_examples)
    plain = [one.weight * left for one, left in zip(batch.feedback_examples, standing, strict=True)]
    found = effective(plain, batch.by_expert or [False] * len(plain), nominal=nominal, weight=weight, share=share)
    return tuple(
        one if one.weight == effect else replace(one, weight=effect) for one, effect in zip(batch.feedback_examples, found, strict=True)
    )


def effective(plain: Sequence[float], by_expert: Sequence[bool], *, nominal: int, weight: float, share: float) -> list[float]:
    """Plain weights with those of experts multiplied by `weight`; where they come to more than `share` of the step, all shrink alike.

    The step has `max(nominal, len(plain))` places of weight 1: what its feedback loss is divided by. An empty place counts, so that a lone
    expert has the full weight, and nothing shrinks to nothing.
    """
    together = weight * sum(one for one, expert in zip(plain, by_expert, strict=True) if expert)
    most = share * max(nominal, len(plain))
    factor = weight if together <= most else weight * most / together
    return [one * factor if expert else one for one, expert in zip(plain, by_expert, strict=True)]
