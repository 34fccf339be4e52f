"""The losses, the trainer and the guard: what one step computes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from liveloop.tasks import FeedbackExample, LabelledExample, Objective
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import narrow, widen
from services.learner.guard import Guard
from services.learner.micro_batch import MicroBatch
from services.learner.trainer import Recipe, StepReport, Trainer
from tests.tiny import tiny_bundle

RECIPE = Recipe(
    objective="complementary",
    optimizer="adamw",
    learning_rate=1e-3,
    feedback_weight=1.0,
    kl_weight=0.0,
    warm_up=0,
    ema_decay=0.9,
    clip_norm=1.0,
    micro_batch=8,
    expert_weight=2.0,
    expert_share=0.5,
    seed=0,
    task_data="",
    threads=1,
    device="cpu",
    torch="",
)
UP = FeedbackExample("good movie", 1, +1, 1.0)


def batch(*feedback: FeedbackExample, task: tuple[LabelledExample, ...] = ()) -> MicroBatch:
    return MicroBatch(tuple(range(len(feedback))), (), tuple(range(len(task))), feedback, task)


def new_trainer() -> tuple[Trainer, Classification]:
    bundle, bits = tiny_bundle()
    task = Classification(bundle)
    trainer = Trainer(task, bundle.layout, torch.device("cpu"))
    trainer.reset(bits)
    return trainer, task


def test_a_thumb_weighs_the_same_alone_as_in_a_full_micro_batch():
    _, task = new_trainer()
    bundle, bits = tiny_bundle()
    model, objective = task.new_model(bundle.layout, widen(bits)), Objective("complementary", 8, torch.zeros(3))
    alone = task.losses(model, [], [UP], objective).feedback
    among = task.losses(model, [], [UP, *[FeedbackExample("bad", 0, 1, 0.0)] * 7], objective).feedback
    assert alone.item() == pytest.approx(among.item(), rel=1e-5)


def test_steps_move_the_answer_the_way_the_thumb_points():
    for sign in (+1, -1):
        trainer, task = new_trainer()
        item = FeedbackExample("good movie", 1, sign, 1.0)
        bundle = task.bundle
        before = task.answer(task.new_model(bundle.layout, widen(trainer.bits)), task.encode([item.text]))[0].probabilities[1]
        for row in range(10):
            trainer.apply(trainer.compute(batch(item), RECIPE, row), RECIPE)
        after = task.answer(task.new_model(bundle.layout, widen(trainer.bits)), task.encode([item.text]))[0].probabilities[1]
        assert (after - before) * sign > 0


def test_frozen_tensors_never_change():
    trainer, task = new_trainer()
    frozen = trainer.bits[: task.bundle.layout.frozen].copy()
    for row in range(3):
        trainer.apply(trainer.compute(batch(UP), RECIPE, row), RECIPE)
    assert np.array_equal(trainer.bits[: task.bundle.layout.frozen], frozen) and len(frozen) > 0


def test_restored_tensors_continue_bit_for_bit():
    trainer, _ = new_trainer()
    other, _ = new_trainer()
    rows = batch(UP, task=(LabelledExample("bad film", 0),))
    trainer.apply(trainer.compute(rows, RECIPE, 1), RECIPE)
    other.load(trainer.tensors())
    for one in (trainer, other):
        one.apply(one.compute(rows, RECIPE, 2), RECIPE)
        one.settle()
    assert np.array_equal(trainer.bits, other.bits)


def test_average_and_master_meet_half_way_when_they_settle():
    trainer, _ = new_trainer()
    start = trainer.tensors()["ema"]
    trainer.apply(trainer.compute(batch(UP), RECIPE, 1), RECIPE)
    stepped = trainer.tensors()["master"]
    trainer.settle()
    ended = trainer.tensors()
    assert ((ended["ema"] - start).norm() / (stepped - start).norm()).item() == pytest.approx(0.95, rel=1e-3)
    assert torch.equal(ended["ema"], ended["master"])


def test_a_lone_step_is_served_nearly_whole_and_a_long_stream_as_a_mean():
    trainer, _ = new_trainer()
    shares = []
    for row in range(60):
        before = trainer.tensors()["ema"]
        trainer.apply(trainer.compute(batch(UP), RECIPE, row), RECIPE)
        now = trainer.tensors()
        shares.append(((now["ema"] - before).norm() / (now["master"] - before).norm()).item())
    assert shares[0] == pytest.approx(0.9, rel=1e-3) and shares[-1] == pytest.approx(9 / 69, rel=1e-2)
    assert min(shares) >= 0.1 - 1e-3 and sorted(shares, reverse=True) == pytest.approx(shares, rel=1e-2)


def test_the_first_steps_from_fresh_moments_are_shorter():
    lengths = []
    for warm_up in (0, 4):
        trainer, _ = new_trainer()
        recipe = replace(RECIPE, warm_up=warm_up)
        for row in range(5):
            before = trainer.tensors()["master"]
            trainer.apply(trainer.compute(batch(UP), recipe, row), recipe)
            lengths.append((trainer.tensors()["master"] - before).norm().item())
    assert lengths[5] == pytest.approx(lengths[0] / 4, rel=1e-3) and lengths[6] < lengths[1]


def test_a_refused_step_has_changed_nothing():
    trainer, _ = new_trainer()
    bits = trainer.bits.copy()
    trainer.compute(batch(UP), RECIPE, 1)
    assert np.array_equal(trainer.bits, bits)


def test_narrowing_what_was_widened_is_exact():
    bits = np.arange(1 << 16, dtype=np.uint16)
    finite = bits[(bits & 0x7F80) != 0x7F80]
    assert np.array_equal(narrow(widen(finite)), finite)


@pytest.mark.parametrize(
    "report",
    [StepReport(math.nan, 0.1, 1.0), StepReport(0.1, math.inf, 1.0), StepReport(0.1, 0.1, math.nan), StepReport(0.1, 0.1, 1e6)],
)
def test_the_guard_refuses_what_is_not_finite_or_far_too_long(report: StepReport):
    assert Guard().refusal(report)


def test_the_guard_refuses_a_task_loss_far_from_its_median():
    guard = Guard()
    assert not any(guard.refusal(StepReport(0.3, 0.3, 1.0)) for _ in range(20))
    assert guard.refusal(StepReport(9.0, 0.3, 1.0))
    assert not guard.refusal(StepReport(0.5, 0.3, 1.0))


def test_an_experts_word_moves_the_weights_as_far_as_its_recipe_says():
    def loss(by_expert: bool, recipe: Recipe) -> float:
        trainer, _ = new_trainer()
        return trainer.compute(replace(batch(UP), by_expert=(by_expert,)), recipe, 1).feedback_loss

    plain = loss(False, RECIPE)
    assert loss(True, RECIPE) == pytest.approx(2.0 * plain)
    assert loss(True, replace(RECIPE, expert_weight=3.0)) == pytest.approx(3.0 * plain)
    assert loss(True, replace(RECIPE, expert_share=1 / 16)) == pytest.approx(0.5 * plain)
    assert loss(False, replace(RECIPE, expert_weight=3.0, expert_share=0.1)) == plain
