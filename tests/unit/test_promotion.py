"""The canary in the learner's loop: what its users say moves the blessed version, or takes the current one back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from liveloop.errors import Misconfigured
from liveloop.settings import load_settings
from liveloop.v1 import events_pb2
from liveloop.v1.events_pb2 import THUMB_DOWN, THUMB_UP, ChannelReport, Event, Feedback, FeedbackEvent, Input, PodReport, PredictionEvent
from liveloop.v1.learner_pb2 import FeedbackState as State
from liveloop.weights.channels import Channel
from services.learner import promotion
from services.learner.canary import Judgement, Work
from services.learner.journal import By
from services.learner.promotion import Between, judgements, work
from tests.unit.test_joiner import prediction_id
from tests.unit.test_learner_loop import Bench

CURRENT, BLESSED = events_pb2.CHANNEL_CURRENT, events_pb2.CHANNEL_BLESSED


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(promotion, "_LOOK_EVERY", 0.0)
    found = Bench(tmp_path, canary_share=0.3)
    yield found
    found.parts.tensors.close()
    found.publisher.close()
    found.parts.journal.close()
    found.log.close()


def judged(bench: Bench, channel: int, version: int, signals: list[int], *, answered: str = "positive") -> None:
    """Answers of one channel's version, each to a user of his own, who says what he thinks of it."""
    events = []
    for signal in signals:
        of = prediction_id(bench.sent)
        bench.sent += 1
        prediction = PredictionEvent(prediction_id=of, input=Input(text="a movie"), label=answered, version=version, channel=channel)
        prediction.created_at.GetCurrentTime()
        feedback = FeedbackEvent(feedback=Feedback(feedback_id="x", prediction_id=of, thumb=signal), judge=of.encode())
        feedback.accepted_at.GetCurrentTime()
        events += [Event(prediction=prediction), Event(feedback=feedback)]
    bench.log.append(events)


def trained(bench: Bench) -> int:
    """A version after the blessed one, evaluated."""
    bench.turn_until(bench.is_quiet)
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: State.FEEDBACK_STATE_TRAINED in bench.states() and bench.is_quiet())
    return bench.head.current


def test_a_version_that_passed_is_not_blessed_before_its_users_say_so(bench: Bench):
    version = trained(bench)
    assert bench.parts.publication.candidate == version
    assert bench.head.canary_share == 0.3
    assert bench.head.blessed == 1
    judged(bench, CURRENT, version, [THUMB_UP] * 120)
    judged(bench, BLESSED, 1, [THUMB_UP] * 100 + [THUMB_DOWN] * 20)
    bench.turn_until(lambda: bench.head.blessed >= version)
    (why,) = bench.parts.journal.db.execute(
        "SELECT json_extract(body, '$.why') FROM rows WHERE json_extract(body, '$.who') = 'canary'"
    ).fetchone()
    assert "of the judges say wrong" in why


def test_what_is_being_evaluated_is_compared_with_the_version_that_users_promote_meanwhile(bench: Bench):
    version = trained(bench)
    bench.thumb(THUMB_UP)
    bench.turn_until(lambda: bench.head.current > version)
    bench.parts.examiner.turn()
    bench.loop._promote(version, By("canary", "its users like it"))
    compared = []
    decide = bench.parts.examiner._decide
    bench.parts.examiner._decide = lambda done: (compared.append([one.version for one in done.others]), decide(done))[1]
    bench.turn_until(lambda: compared)
    assert compared[0] == [version]


def test_a_version_that_its_users_call_wrong_is_taken_back_once_and_its_feedback_set_aside(bench: Bench):
    version = trained(bench)
    blessed = bench.parts.publication.load(1)
    judged(bench, BLESSED, 1, [THUMB_UP] * 200)
    judged(bench, CURRENT, version, [THUMB_DOWN] * 40, answered="negative")
    bench.turn_until(lambda: bench.parts.journal.last_reset() > 0)
    reset = bench.parts.journal.making(bench.parts.journal.last_reset())
    assert reset is not None
    assert (reset.body["to"], reset.body["who"]) == (1, "guard")
    assert "of the judges say wrong" in reset.body["why"]
    assert np.array_equal(bench.parts.publication.load(bench.parts.journal.last_reset()), blessed)
    assert State.FEEDBACK_STATE_QUARANTINED in bench.states()
    bench.turn_until(lambda: not bench.parts.batches.waiting() and bench.is_quiet())
    assert [row.kind for row in bench.parts.journal.since(0)].count("reset") == 1


def test_a_canary_and_gated_publishing_exclude_each_other():
    assert load_settings(canary_share=0.1).canary_share == 0.1
    with pytest.raises(Misconfigured, match="exclude each other"):
        load_settings(canary_share=0.1, publish="gated")


def test_a_judgement_counts_as_it_stands_and_for_the_versions_in_question_only(bench: Bench):
    bench.turn_until(bench.is_quiet)
    judged(bench, CURRENT, 1, [THUMB_DOWN])
    judged(bench, CURRENT, 3, [THUMB_DOWN, THUMB_UP])
    judged(bench, BLESSED, 1, [THUMB_UP])
    judged(bench, BLESSED, 2, [THUMB_DOWN])
    taken_back = FeedbackEvent(feedback=Feedback(feedback_id="y", prediction_id=prediction_id(1)), judge=prediction_id(1).encode())
    taken_back.feedback.retraction.SetInParent()
    taken_back.accepted_at.GetCurrentTime()
    bench.log.append([Event(feedback=taken_back)])
    bench.turn_until(lambda: State.FEEDBACK_STATE_RETRACTED in bench.states())
    found = judgements(bench.parts.journal.db, Between(blessed=1, after=2), since=0.0)
    judges = [prediction_id(number).encode() for number in range(5)]
    assert found == [Judgement(Channel.BLESSED, judges[3], 0.0), Judgement(Channel.CURRENT, judges[2], 0.0)]
    assert judgements(bench.parts.journal.db, Between(blessed=1, after=2), since=1e12) == []


def test_ratings_and_corrections_are_judgements_too(bench: Bench):
    bench.turn_until(bench.is_quiet)
    judged(bench, CURRENT, 2, [THUMB_UP] * 3)
    for number, later in enumerate(({"rating": 0.25}, {"correction": {"label": "negative"}}, {"correction": {"label": "positive"}})):
        of = prediction_id(number)
        event = FeedbackEvent(feedback=Feedback(feedback_id="y", prediction_id=of, **later), judge=of.encode())
        event.accepted_at.GetCurrentTime()
        bench.log.append([Event(feedback=event)])
    bench.turn_until(lambda: bench.states().count(State.FEEDBACK_STATE_SUPERSEDED) == 3)
    assert [one.down for one in judgements(bench.parts.journal.db, Between(1, 1), since=0.0)] == [0.0, 1.0, 0.75]


def test_what_pods_computed_is_summed_by_channel_and_a_report_read_twice_counts_once(bench: Bench):
    report = PodReport(pod="a", version=3)
    report.channels.add(channel=CURRENT, version=3, answered=10, failed=1, batches=4, seconds=0.5)
    report.channels.add(channel=CURRENT, version=1, answered=99, batches=9, seconds=9.0)
    report.channels.add(channel=BLESSED, version=1, answered=20, batches=5, seconds=1.0)
    report.reported_at.GetCurrentTime()
    alone = PodReport(pod="b", version=3, channels=[ChannelReport(channel=CURRENT, version=3, answered=1000, batches=1)])
    alone.reported_at.GetCurrentTime()
    bench.log.append([Event(pod_report=report), Event(pod_report=report), Event(pod_report=alone)])
    bench.turn_until(lambda: bench.parts.journal.db.execute("SELECT count(*) FROM pods").fetchone() == (2,))
    found = work(bench.parts.journal.db, Between(blessed=1, after=1), since=0.0)
    assert found == {Channel.CURRENT: Work(10, 1, 4, 0.5), Channel.BLESSED: Work(20, 0, 5, 1.0)}
