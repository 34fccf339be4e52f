"""From what the model computed to an answer: which label is shown, what is logged, what is worth asking. Knows the intake; no gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from liveloop import tracing
from liveloop.policy import Policy
from liveloop.tasks import Encoded
from liveloop.times import timestamp
from liveloop.v1 import events_pb2, inference_pb2
from liveloop.weights.channels import Channel
from services.inference.asking import Asking
from services.inference.batcher import Computed
from services.inference.intake import Intake
from services.inference.tokens import Tokens

_LEAST = 2.0**-126
"""The least probability in the log: a label that exploring chose may have none as a 32-bit float."""


class PredictionDesk:
    """Where answers are handed out."""

    def __init__(
        self, intake: Intake, tokens: Tokens, *, labels: Sequence[str], policy: Policy, asking: Asking, clock: Callable[[], float]
    ) -> None:
        """`labels` in the model's order; `clock` is Unix seconds."""
        self._intake = intake
        self._tokens = tokens
        self._labels = labels
        self._policy = policy
        self._asking = asking
        self._clock = clock

    def asker(self, request: inference_pb2.PredictRequest, name: str) -> bytes:
        """Who asks for the prediction of this name."""
        return self._tokens.asker(user=request.user, session_id=request.session_id, prediction_id=name)

    def answer(
        self, request: inference_pb2.PredictRequest, name: str, asked: events_pb2.Input, encoded: Encoded, computed: Computed
    ) -> inference_pb2.Prediction:
        """One answer. Explored is only what a person may see and judge, and by nobody who is held out."""
        answer, stored = computed.answer, not request.HasField("store") or request.store
        label, propensity = answer.label, answer.propensity
        judged_by_a_person = stored and not request.not_shown and computed.channel is not Channel.HOLDOUT
        if judged_by_a_person:
            label, propensity = self._policy.choose(answer.probabilities, label, name)
        ranked = sorted(zip(self._labels, answer.probabilities, strict=True), key=lambda pair: -pair[1])
        prediction = inference_pb2.Prediction(
            prediction_id=name,
            version=computed.version,
            label=self._labels[label],
            scores=[inference_pb2.LabelScore(label=label, score=score) for label, score in ranked],
            propensity=propensity,
            truncated=encoded.truncated,
        )
        if stored:
            prediction.feedback_token = self._record(request, asked, prediction, computed, answer.probabilities[label])
        if prediction.feedback_token and judged_by_a_person:
            prediction.feedback_wanted = self._asking.worth(answer.probabilities[label])
        return prediction

    def _record(
        self,
        request: inference_pb2.PredictRequest,
        asked: events_pb2.Input,
        prediction: inference_pb2.Prediction,
        computed: Computed,
        score: float,
    ) -> str:
        """Put the prediction into the log's queue and make its token; an empty one where the log sheds it."""
        name = prediction.prediction_id
        asker = self.asker(request, name)
        event = events_pb2.PredictionEvent(
            prediction_id=name,
            input=asked,
            label=prediction.label,
            version=prediction.version,
            propensity=prediction.propensity,
            score=max(score, _LEAST),
            asker=asker,
            tags=request.tags,
            created_at=timestamp(self._clock()),
            channel=events_pb2.Channel.ValueType(computed.channel),
            not_shown=request.not_shown,
            traceparent=tracing.traceparent(),
        )
        if not self._intake.offer(events_pb2.Event(prediction=event)):
            return ""
        return self._tokens.sign(name, asker=asker, version=prediction.version, propensity=prediction.propensity)
