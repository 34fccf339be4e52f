"""Recorded steps are those of the learner: only what the scope trains changes, and it does change."""

import numpy as np
import pytest

from liveloop.settings import load_settings
from liveloop.tasks.classification import Classification
from liveloop.tasks.flat import widen
from services.commands.bench.patches import measure_patches
from services.commands.bench.recorded import SCOPES, judge, record, scoped
from services.commands.raters import RatedText
from tests.bench_source import tiny_source
from tests.tiny import tiny_bundle


@pytest.mark.parametrize("scope", SCOPES)
def test_a_step_changes_what_the_scope_trains_and_nothing_else(scope: str):
    start = scoped(tiny_source(), scope)
    first, *later = record(start, load_settings(), learning_rate=1e-3, steps=2)
    frozen = start.bundle.layout.frozen
    assert np.array_equal(first, start.bits)
    assert np.array_equal(first[:frozen], later[-1][:frozen])
    assert not np.array_equal(later[0], later[1])


def test_scopes_train_fewer_and_fewer_weights():
    layouts = [scoped(tiny_source(), scope).bundle.layout for scope in ("all", "no-embeddings", "last-1", "lora-2", "head")]
    trainable = [layout.total - layout.frozen for layout in layouts]
    assert trainable == sorted(trainable, reverse=True)
    assert len(set(trainable)) == len(trainable)


@pytest.mark.parametrize("scope", ["all", "last-1"])
def test_under_another_scope_the_model_answers_the_same(scope: str):
    first, other = tiny_source(), scoped(tiny_source(), scope)
    scores = []
    for found in (first, other):
        task = Classification(found.bundle)
        model = task.new_model(found.bundle.layout, widen(found.bits))
        scores.append(task.answer(model, task.encode(["the film is great"]))[0].probabilities)
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_the_figures_of_a_recording_are_complete_and_no_patch_is_empty():
    start = scoped(tiny_source(), "all")
    found = measure_patches(start.bundle, list(record(start, load_settings(), learning_rate=1e-3, steps=3)))
    promised = {"patch_bytes", "floor_bytes", "pulse_bytes", "xor_zstd_bytes", "full_fp32_bytes", "diff_encode_ms", "apply_ms"}
    assert promised <= found.keys()
    assert found["full_fp32_bytes"] == 4 * start.bundle.layout.total
    assert min(found[name] for name in promised) > 0
    assert 0 < found["changed"] <= found["trainable"]


def test_a_rater_who_sees_no_sentiment_gives_no_thumb():
    bundle, bits = tiny_bundle()
    judged = judge(bundle, bits, [RatedText("good", (0,), "positive"), RatedText("bad", (-3,), "negative")])
    assert [item.text for item in judged] == ["bad"]
