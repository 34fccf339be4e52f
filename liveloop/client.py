"""What an application calls: predict, judge, ask what became of it, steer. Knows the contract and nothing behind it.

from liveloop import Client

client = Client()
prediction = client.predict("not bad at all")
client.feedback(prediction, "up")
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, TypeVar, overload

import grpc

from liveloop.errors import InvalidInput, LiveloopError, Overloaded, Unavailable
from liveloop.rpc import CHANNEL_OPTIONS, error_from
from liveloop.v1 import events_pb2, inference_pb2, learner_pb2
from liveloop.v1.inference_pb2_grpc import InferenceServiceStub
from liveloop.v1.learner_pb2_grpc import LearnerServiceStub

_TRIES = 4  # waits of about 0.1, 0.2 and 0.4 s between them: a service that restarts is back by the last
_THUMBS = {"up": events_pb2.THUMB_UP, "down": events_pb2.THUMB_DOWN}

Request = TypeVar("Request")
Response = TypeVar("Response")


class Client:
    """Calls a running loop; its methods may be called from several threads.

    Every method raises LiveloopError: InvalidInput names the field, Unavailable and Overloaded come after a few tries,
    DeadlinePassed after `timeout`.
    """

    def __init__(self, target: str = "127.0.0.1:50051", *, learner: str = "127.0.0.1:50052", timeout: float = 10.0) -> None:
        """Connects at the first call. `target` and `learner` are host:port; `timeout` is for a whole call with its tries, in seconds."""
        self._timeout = timeout
        self._channels = [grpc.insecure_channel(address, options=CHANNEL_OPTIONS) for address in (target, learner)]
        self._inference = InferenceServiceStub(self._channels[0])
        self._learner = LearnerServiceStub(self._channels[1])

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is a sequence of str too: here it is always one text
        self, text: str, *, user: str = "", session_id: str = "", store: bool = True, tags: Mapping[str, str] | None = None
    ) -> inference_pb2.Prediction: ...

    @overload
    def predict(
        self, text: Sequence[str], *, user: str = "", session_id: str = "", store: bool = True, tags: Mapping[str, str] | None = None
    ) -> list[inference_pb2.Prediction]: ...

    def predict(
        self, text: str | Sequence[str], *, user: str = "", session_id: str = "", store: bool = True, tags: Mapping[str, str] | None = None
    ) -> inference_pb2.Prediction | list[inference_pb2.Prediction]:
        """One answer for one text, a list for a sequence of 1 to 256; `store=False`: not logged, cannot be judged."""
        request = inference_pb2.PredictRequest(
            inputs=[events_pb2.Input(text=one) for one in ([text] if isinstance(text, str) else text)],
            user=user,
            session_id=session_id,
            store=store,
            tags=tags,
        )
        answers = self._call(self._inference.Predict, request).predictions
        return answers[0] if isinstance(text, str) else list(answers)

    def feedback(
        self,
        prediction: inference_pb2.Prediction,
        signal: Literal["up", "down"] | float | None = None,
        *,
        label: str = "",
        reasons: Sequence[str] = (),
        comment: str = "",
        feedback_id: str = "",
    ) -> inference_pb2.FeedbackAck:
        """Judge an answer: "up", "down", a rating in [0, 1], or the `label` it should have had. Returns once it is durable, or refused."""
        feedback = events_pb2.Feedback(feedback_id=feedback_id, reasons=reasons, comment=comment)
        if (signal is None) == (not label):
            raise InvalidInput("give either a signal (up, down or a rating) or the right label", field="signal")
        if label:
            feedback.correction.label = label
        elif isinstance(signal, str):
            if signal not in _THUMBS:
                raise InvalidInput(f"{signal!r} is not up, down or a rating", field="signal")
            feedback.thumb = _THUMBS[signal]
        elif signal is not None:
            feedback.rating = signal
        return self._submit(prediction, feedback)

    def retract(self, prediction: inference_pb2.Prediction) -> inference_pb2.FeedbackAck:
        """Take back what this judge said about an answer: it never trains again."""
        return self._submit(prediction, events_pb2.Feedback(retraction=events_pb2.Retraction()))

    def status(self, prediction_id: str, feedback_id: str = "") -> learner_pb2.GetFeedbackStatusResponse:
        """What became of a feedback; of the newest on that prediction without `feedback_id`. NotFound: not read yet, or never sent."""
        request = learner_pb2.GetFeedbackStatusRequest(prediction_id=prediction_id, feedback_id=feedback_id)
        return self._call(self._learner.GetFeedbackStatus, request)

    def versions(self, limit: int = 20) -> list[learner_pb2.Version]:
        """The newest versions, newest first."""
        request = learner_pb2.ListVersionsRequest(limit=limit)
        return list(self._call(self._learner.ListVersions, request).versions)

    def version(self, number: int) -> learner_pb2.GetVersionResponse:
        """Where one version came from and what was decided about it. NotFound: there is no such version."""
        return self._call(self._learner.GetVersion, learner_pb2.GetVersionRequest(version=number))

    def model(self) -> inference_pb2.GetModelResponse:
        """What is served now: model, labels, version, limits."""
        request = inference_pb2.GetModelRequest()
        return self._call(self._inference.GetModel, request)

    # Orders: journalled by the learner with who and why

    def promote(self, version: int, *, who: str, why: str = "") -> None:
        """Bless a published version by hand. NotFound: it never was published; NotNow: it is not kept any more."""
        self._call(self._learner.Promote, learner_pb2.PromoteRequest(version=version, who=who, why=why))

    def rollback(self, version: int, *, who: str, why: str = "") -> learner_pb2.RollbackResponse:
        """Serve an older version's weights again, as a new version; the feedback learnt since is quarantined. Raises as `promote` does."""
        return self._call(self._learner.Rollback, learner_pb2.RollbackRequest(version=version, who=who, why=why))

    def pin(self, version: int, *, who: str, why: str = "") -> None:
        """Keep a version from collection. Raises as `promote` does."""
        self._call(self._learner.Pin, learner_pb2.PinRequest(version=version, who=who, why=why))

    def unpin(self, version: int, *, who: str, why: str = "") -> None:
        """Let a pinned version go. NotNow: it is not pinned."""
        self._call(self._learner.Unpin, learner_pb2.UnpinRequest(version=version, who=who, why=why))

    def pause(self, *, who: str, why: str = "") -> None:
        """Take no more steps, over restarts too; feedback is still accepted and read."""
        self._call(self._learner.Pause, learner_pb2.PauseRequest(who=who, why=why))

    def resume(self, *, who: str, why: str = "") -> None:
        """Take steps again, also after the guard paused training."""
        self._call(self._learner.Resume, learner_pb2.ResumeRequest(who=who, why=why))

    def quarantine(self, limit: int = 100) -> learner_pb2.ListQuarantineResponse:
        """The newest feedback that is set aside, newest first, and how much there is in all."""
        return self._call(self._learner.ListQuarantine, learner_pb2.ListQuarantineRequest(limit=limit))

    def release(self, feedback: Sequence[tuple[str, str]] | None, *, who: str, why: str = "") -> int:
        """Let quarantined feedback train, named by (prediction_id, feedback_id), or all of it for None. How many were released."""
        if feedback is not None and not feedback:
            return 0  # on the wire no names mean all
        request = learner_pb2.ReleaseQuarantineRequest(feedback=_names(feedback), who=who, why=why)
        return self._call(self._learner.ReleaseQuarantine, request).released

    def drop(self, feedback: Sequence[tuple[str, str]] | None, *, who: str, why: str = "") -> int:
        """Reject quarantined feedback for good, named as for `release`. How many were rejected."""
        if feedback is not None and not feedback:
            return 0
        request = learner_pb2.DropQuarantineRequest(feedback=_names(feedback), who=who, why=why)
        return self._call(self._learner.DropQuarantine, request).dropped

    def close(self) -> None:
        """Close the connections; a call afterwards is a ValueError."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _submit(self, prediction: inference_pb2.Prediction, feedback: events_pb2.Feedback) -> inference_pb2.FeedbackAck:
        """Send one feedback. Its id is chosen before the first try, so that a try whose answer was lost counts once."""
        feedback.feedback_id = feedback.feedback_id or str(uuid.uuid4())
        feedback.prediction_id = prediction.prediction_id
        feedback.feedback_token = prediction.feedback_token
        feedback.created_at.GetCurrentTime()
        request = inference_pb2.SubmitFeedbackRequest(feedback=[feedback])
        return self._call(self._inference.SubmitFeedback, request).acks[0]

    def _call(self, rpc: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Call with what is left of the deadline; again, after a wait, where the service is away or full."""
        deadline = time.monotonic() + self._timeout
        for tried in range(1, _TRIES + 1):
            try:
                return rpc(request, timeout=deadline - time.monotonic())
            except grpc.RpcError as call:
                error = error_from(call)
                wait = _wait(error, tried)
                if wait is None or tried == _TRIES or time.monotonic() + wait >= deadline:
                    raise error from call
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def _names(feedback: Sequence[tuple[str, str]] | None) -> list[learner_pb2.FeedbackName]:
    return [learner_pb2.FeedbackName(prediction_id=prediction_id, feedback_id=feedback_id) for prediction_id, feedback_id in feedback or ()]


def _wait(error: LiveloopError, tried: int) -> float | None:
    """Seconds before the next try; None where another try cannot help. The server's RetryInfo is the least it takes."""
    if not isinstance(error, Unavailable | Overloaded):
        return None
    backoff: float = 0.1 * 2 ** (tried - 1) * random.uniform(0.75, 1.25)
    return max(backoff, error.retry_after) if isinstance(error, Overloaded) else backoff
