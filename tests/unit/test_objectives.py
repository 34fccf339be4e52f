"""The feedback losses: against hand-worked cases, closed forms of their gradients and finite differences, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from liveloop.tasks import FeedbackExample, LabelledExample, Objective
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import widen
from liveloop.tasks.objectives import BETA, LOSSES, MOST_IMPORTANCE, TAU, Judged, divergence, moved
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP
from services.learner.redo import redo
from services.learner.trainer import Trainer
from tests.tiny import tiny_bundle
from tests.unit.test_forget import Users
from tests.unit.test_learner_loop import CPU
from tests.unit.test_learning import RECIPE, batch

SIGNS = (+1, -1, +1, -1)
THUMBS = (FeedbackExample("good movie", 1, +1, 1.0), FeedbackExample("good movie", 1, -1, 1.0))
ROW = LabelledExample("bad film", 0)


def judged(logits: Tensor, labels: Sequence[int], signs: Sequence[int], **other: Tensor) -> Judged:
    """Against a reference of equal logits and baselines of 0, unless told otherwise."""
    given = {"propensities_B": torch.ones_like(logits[:, 0]), "reference_BK": torch.zeros_like(logits), "baselines": logits.new_zeros(3)}
    return Judged(logits, torch.tensor(labels), torch.tensor(signs), **{**given, **{name: value.double() for name, value in other.items()}})


def random_case(labels: int, seed: int) -> Judged:
    generator = torch.Generator().manual_seed(seed)
    logits, reference = torch.randn(2, 4, labels, dtype=torch.float64, generator=generator)
    chosen = torch.randint(labels, (4,), generator=generator).tolist()
    found = judged(logits, chosen, SIGNS, reference_BK=reference, baselines=torch.tensor([0.2, 0.5, -0.3]))
    return replace(found, propensities_B=torch.tensor([0.9, 0.5, 0.3, 1.0], dtype=torch.float64))


LOG3 = math.log(3.0)
ODDS = 0.5 * math.exp(1 / TAU)  # of a label to the other one, where the reference had 1 : 2


@pytest.mark.parametrize(
    ("name", "up", "down"),
    [
        ("complementary", -math.log(0.75), -math.log(0.25)),
        ("cross_entropy", -math.log(0.75), -math.log(0.25)),
        ("kto", 1 / (1 + 1.5 / math.exp(0.1)), 1 / (1 + math.exp(0.1) / 1.5)),  # the log-ratio is log(0.75 / 0.5), z0 is 0.1
        ("bco", math.log(1 + math.exp(0.25) / 1.5), math.log(1 + 1.5 / math.exp(0.25))),  # delta is (0.3 + 0.2) / 2
        ("policy_gradient", -(0.75 / 0.5) * 0.9 * math.log(0.75), (0.75 / 0.5) * 1.1 * math.log(0.75)),  # the mean reward is 0.1
    ],
)
def test_a_loss_is_what_a_hand_works_out(name: str, up: float, down: float):
    case = judged(torch.tensor([[0.0, LOG3]] * 2, dtype=torch.float64), [1, 1], [+1, -1], baselines=torch.tensor([0.1, 0.3, 0.2]))
    case = replace(case, propensities_B=torch.full((2,), 0.5, dtype=torch.float64))
    assert LOSSES[name].compute(case).tolist() == pytest.approx([up, down])


def test_the_kl_loss_is_the_distance_to_the_tilted_reference():
    reference = torch.tensor([[math.log(2.0), 0.0]], dtype=torch.float64)  # 2/3 and 1/3
    tilted = torch.tensor([1 / (1 + ODDS), ODDS / (1 + ODDS)], dtype=torch.float64)
    loss = LOSSES["kl"].compute(judged(torch.tensor([[0.0, LOG3]], dtype=torch.float64), [1], [+1], reference_BK=reference))
    by_hand = sum(q * math.log(q / p) for q, p in zip(tilted.tolist(), (0.25, 0.75), strict=True))
    assert loss.item() == pytest.approx(by_hand)
    assert LOSSES["kl"].compute(judged(tilted.log()[None], [1], [+1], reference_BK=reference)).item() == pytest.approx(0.0, abs=1e-9)


def by_hand(name: str, case: Judged) -> Tensor:
    """The gradient with respect to the logits, [B, K], in closed form: a factor of (onehot(a) - p), or p - target."""
    p_BK, onehot_BK = case.logits_BK.softmax(-1), torch.nn.functional.one_hot(case.labels_B, case.logits_BK.shape[-1]).double()
    p_B, sign_B = (p_BK * onehot_BK).sum(-1), case.signs_B.double()
    ratio_B = (p_B / (case.reference_BK.softmax(-1) * onehot_BK).sum(-1)).log()
    if name == "kl":
        return p_BK - (case.reference_BK + onehot_BK * sign_B[:, None] / TAU).softmax(-1)
    if name == "kto":
        value_B = torch.sigmoid(BETA * sign_B * (ratio_B - case.baselines[0]))
        factor_B = -BETA * sign_B * value_B * (1 - value_B)
    elif name == "bco":
        factor_B = -BETA * sign_B * torch.sigmoid(-sign_B * (BETA * ratio_B - case.baselines[1:].mean()))
    elif name == "policy_gradient":
        factor_B = -(p_B / case.propensities_B) * (sign_B - case.baselines[0])
    else:  # complementary, and cross-entropy on the other of two labels
        factor_B = torch.where(sign_B > 0, -1.0, p_B / (1 - p_B))
    return factor_B[:, None] * (onehot_BK - p_BK)


CASES = [(name, labels, seed) for name in LOSSES for labels in (2, 3, 5) for seed in (0, 1) if name != "cross_entropy" or labels == 2]


@pytest.mark.parametrize(("name", "labels", "seed"), CASES)
def test_a_gradient_is_its_closed_form(name: str, labels: int, seed: int):
    case = random_case(labels, seed)
    logits = case.logits_BK.clone().requires_grad_()
    LOSSES[name].compute(replace(case, logits_BK=logits)).sum().backward()
    torch.testing.assert_close(logits.grad, by_hand(name, case))


def expected_reward(case: Judged) -> Tensor:
    """What policy_gradient's gradient is the gradient of, where no importance weight is cut off."""
    return -(case.signs_B - case.baselines[0]) * case.log_p_B.exp() / case.propensities_B


@pytest.mark.parametrize(("name", "labels", "seed"), CASES)
def test_a_gradient_agrees_with_finite_differences(name: str, labels: int, seed: int):
    case = random_case(labels, seed)
    compute: Callable[[Judged], Tensor] = expected_reward if name == "policy_gradient" else LOSSES[name].compute
    assert torch.autograd.gradcheck(lambda z: compute(replace(case, logits_BK=z)), (case.logits_BK.clone().requires_grad_(),))


def test_of_two_labels_complementary_is_cross_entropy():
    case = random_case(2, 3)
    torch.testing.assert_close(LOSSES["complementary"].compute(case), LOSSES["cross_entropy"].compute(case))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cross_entropy"])
def test_a_thumb_on_a_certain_answer_stays_finite(name: str):
    logits = torch.tensor([[0.0, 500.0, 0.0], [0.0, -500.0, 0.0]] * 2, dtype=torch.float64, requires_grad=True)
    loss = LOSSES[name].compute(judged(logits, [1] * 4, [-1, -1, +1, +1], propensities_B=torch.tensor([1.0, 0.0, 1.0, 0.0])))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


def test_an_importance_weight_is_cut_off():
    rare = judged(torch.zeros(1, 2, dtype=torch.float64), [1], [+1], propensities_B=torch.tensor([0.001]))
    assert LOSSES["policy_gradient"].compute(rare).item() == pytest.approx(MOST_IMPORTANCE * math.log(2.0))


def test_cross_entropy_on_thumbs_refuses_a_third_label():
    with pytest.raises(ValueError, match="two labels"):
        LOSSES["cross_entropy"].compute(random_case(3, 0))


def test_baselines_are_running_means_of_what_was_judged():
    case = judged(torch.zeros(4, 2, dtype=torch.float64), [1] * 4, [+1, +1, +1, -1])
    reward, ones = LOSSES["policy_gradient"], torch.ones(4, dtype=torch.float64)
    for _ in range(500):
        case = replace(case, baselines=moved(reward, case, ones))
    assert case.baselines.tolist() == pytest.approx([0.5, 1.0, -1.0], abs=1e-2)
    assert moved(reward, case, 0 * ones).equal(case.baselines) and moved(LOSSES["complementary"], case, ones).equal(case.baselines)


def probability(trainer: Trainer, task: Classification) -> float:
    model = task.new_model(task.bundle.layout, widen(trainer.bits))
    return task.answer(model, task.encode(["good movie"]))[0].probabilities[1]


def new_trainer(labels: Sequence[str] = ("negative", "positive")) -> tuple[Trainer, Classification]:
    bundle, bits = tiny_bundle(tuple(labels))
    task = Classification(bundle)
    trainer = Trainer(task, bundle.layout, CPU)
    trainer.reset(bits)
    trainer.refer_to(lambda: bits)
    return trainer, task


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("thumb", THUMBS, ids=["up", "down"])
def test_a_thumb_moves_its_answer_the_way_it_points(name: str, thumb: FeedbackExample, optimizer: str):
    trainer, task = new_trainer()
    recipe = replace(RECIPE, objective=name, optimizer=optimizer, learning_rate=1e-3 if optimizer == "adamw" else 0.05)
    before = probability(trainer, task)
    for row in range(10):
        trainer.apply(trainer.compute(batch(thumb), recipe, row), recipe)
    assert (probability(trainer, task) - before) * thumb.sign > 0


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cross_entropy"])
def test_a_correction_is_plain_cross_entropy_whatever_the_loss(name: str):
    trainer, task = new_trainer(("bad", "fair", "good"))
    model, bits = task.new_model(task.bundle.layout, widen(trainer.bits)), trainer.bits
    objective = Objective(name, 1, torch.zeros(3), reference=task.new_model(task.bundle.layout, widen(bits)))
    corrected = FeedbackExample("good movie", 2, +1, 1.0, is_correction=True)
    found = task.losses(model, [], [corrected], objective)
    assert found.feedback.item() == pytest.approx(task.task_loss(model, [LabelledExample("good movie", 2)]).item())
    assert found.baselines.equal(torch.zeros(3))


def test_the_divergence_from_the_reference_is_measured_on_all_texts_and_holds_the_model_back():
    def far(kl_weight: float) -> tuple[float | None, float]:
        trainer, task = new_trainer()
        recipe = replace(RECIPE, kl_weight=kl_weight)
        for row in range(20):
            report = trainer.compute(batch(THUMBS[1], task=(ROW,)), recipe, row)
            trainer.apply(report, recipe)
        model, start = (task.new_model(task.bundle.layout, widen(bits)) for bits in (trainer.bits, tiny_bundle()[1]))
        texts = task.encode([THUMBS[1].text, ROW.text])
        with torch.no_grad():
            return report.kl, divergence(task.logits(start, texts), task.logits(model, texts)).mean().item()

    unmeasured, free = far(0.0)
    measured, held = far(3.0)
    assert unmeasured is None and measured is not None and 0 < measured < free and 0 < held < 0.5 * free


def test_the_reference_is_read_once_and_only_where_it_is_asked_for():
    trainer, _ = new_trainer()
    read: list[int] = []

    def first() -> np.ndarray:
        read.append(1)
        return tiny_bundle()[1]

    trainer.refer_to(first)
    trainer.compute(batch(THUMBS[0]), RECIPE, 1)
    assert not read
    for _ in range(2):
        trainer.compute(batch(THUMBS[0]), replace(RECIPE, objective="kto"), 1)
    assert len(read) == 1


class Learner(Users):
    """A whole learner whose steps compare with the first version, and have a baseline."""

    recipe = replace(RECIPE, objective="kto", kl_weight=0.3)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_redo_with_a_reference_and_baselines_is_equal_to_the_bit(tmp_path: Path, optimizer: str):
    Learner.recipe = replace(Learner.recipe, optimizer=optimizer, learning_rate=1e-3 if optimizer == "adamw" else 0.05)
    users = Learner(tmp_path)
    users.turn_until(users.is_quiet)
    users.learn_from("ann", "bob")
    users.loop.save()
    users.learn_from("cyd")
    row = next(row for row in users.parts.journal.since(0) if row.kind == "train")
    assert row.body["kl_loss"] == pytest.approx(0.0, abs=1e-6) and users.parts.trainer.tensors()["baselines"].abs().sum() > 0
    digest = users.parts.journal.last().state_digest
    users.crash()
    assert users.parts.journal.last().kind == "settle" and users.parts.journal.last().state_digest == digest
    fresh = Trainer(Classification(users.bundle), users.bundle.layout, CPU)
    load = users.parts.publication.load
    fresh.reset(load(1))
    fresh.refer_to(lambda: load(1))
    redo(users.parts.journal, fresh, users.parts.batches, load)
    assert np.array_equal(fresh.bits, users.parts.trainer.bits)
    users.end()


def test_the_propensity_of_an_answer_reaches_its_loss(tmp_path: Path):
    users = Users(tmp_path)
    users.judge("ann", THUMB_UP)
    users.judge("bob", THUMB_DOWN)
    users.turn_until(lambda: users.read() == 2)
    with users.parts.journal.transaction() as db:
        db.execute("UPDATE predictions SET propensity = 0.25")
    assert [one.propensity for one in users.parts.batches.build([1, 2], [], []).feedback_examples] == [0.25, 0.25]
    users.end()
