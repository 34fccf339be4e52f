"""Every call of a loop, written once: requests, retries, answers. Knows the contract; knows nothing of who waits, and how.

A method is a coroutine that suspends only where its transport does. `AsyncClient` has a transport that does; that of `Client` never does,
so that its coroutines run to their end at once.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack, overload

import grpc

from liveloop.errors import InvalidInput, LiveloopError, Overloaded, Unavailable
from liveloop.rows import BATCH, Row
from liveloop.rpc import error_from
from liveloop.v1 import events_pb2, inference_pb2, learner_pb2
from liveloop.v1.inference_pb2_grpc import InferenceServiceStub
from liveloop.v1.learner_pb2_grpc import LearnerServiceStub

_TRIES = 4  # waits of about 0.1, 0.2 and 0.4 s between them: a service that restarts is back by the last
_THUMBS = {"up": events_pb2.THUMB_UP, "down": events_pb2.THUMB_DOWN}
_SOURCES = {
    "": events_pb2.SOURCE_UNSPECIFIED,
    "human": events_pb2.SOURCE_HUMAN,
    "expert": events_pb2.SOURCE_EXPERT,
    "code": events_pb2.SOURCE_CODE,
    "implicit": events_pb2.SOURCE_IMPLICIT,
}
_LATER = (Overloaded.code, Unavailable.code)
"""Why an item was not stored that can be stored later."""

Request = TypeVar("Request")
Response = TypeVar("Response")
Source = Literal["", "human", "expert", "code", "implicit"]
"""What kind of judge speaks; a person where empty. `expert` and `code` need a key with the scope `feedback`."""


class Transport(Protocol):
    """How a call is made, and how its caller waits."""

    async def send(self, rpc: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request, timeout: float) -> Response:
        """The answer. Raises grpc.RpcError."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        ...


class Asked(TypedDict, total=False):
    """How a prediction is asked for."""

    user: str  # the asker, kept only as a keyed hash
    session_id: str  # stands in for the asker where `user` is empty
    store: bool  # False: not logged, cannot be judged
    tags: Mapping[str, str] | None  # kept with the prediction, for slices
    not_shown: bool  # perhaps nobody sees the answer: no default reward


class Methods:
    """What can be asked of a loop."""

    def __init__(self, inference: InferenceServiceStub, learner: LearnerServiceStub, transport: Transport, *, timeout: float) -> None:
        """`timeout` is for a whole call with its tries, in seconds."""
        self._inference = inference
        self._learner = learner
        self._transport = transport
        self._timeout = timeout

    @overload
    async def predict(  # type: ignore[overload-overlap] # a str is a sequence of str too: here it is always one text
        self, text: str, **asked: Unpack[Asked]
    ) -> inference_pb2.Prediction: ...

    @overload
    async def predict(self, text: Sequence[str], **asked: Unpack[Asked]) -> list[inference_pb2.Prediction]: ...

    async def predict(self, text: str | Sequence[str], **asked: Unpack[Asked]) -> inference_pb2.Prediction | list[inference_pb2.Prediction]:
        """One answer for one text, a list for a sequence of 1 to 256."""
        inputs = [events_pb2.Input(text=one) for one in ([text] if isinstance(text, str) else text)]
        request = inference_pb2.PredictRequest(inputs=inputs, **asked)
        answers = (await self._call(self._inference.Predict, request)).predictions
        return answers[0] if isinstance(text, str) else list(answers)

    async def feedback(
        self,
        prediction: inference_pb2.Prediction | str,
        signal: Literal["up", "down"] | float | None = None,
        *,
        label: str = "",
        reasons: Sequence[str] = (),
        comment: str = "",
        feedback_id: str = "",
        user: str = "",
        source: Source = "",
    ) -> inference_pb2.FeedbackAck:
        """Judge an answer: "up", "down", a rating in [0, 1], or the `label` it should have had. Returns once it is durable, or refused.

        With a key of the scope `feedback`, `prediction` may be its id alone, and `user` names who judges.
        """
        feedback = events_pb2.Feedback(feedback_id=feedback_id, reasons=reasons, comment=comment, user=user, source=_source(source))
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
        return await self._submit(prediction, feedback)

    async def retract(self, prediction: inference_pb2.Prediction | str, *, user: str = "") -> inference_pb2.FeedbackAck:
        """Take back what this judge said about an answer: it never trains again. `prediction` and `user` as for `feedback`."""
        return await self._submit(prediction, events_pb2.Feedback(retraction=events_pb2.Retraction(), user=user))

    async def learn(self, rows: Iterable[Row], *, source: Source = "") -> list[inference_pb2.ExampleAck]:
        """Hand in labelled rows; one answer a row, in order, once all are durable or refused. The same rows again change nothing.

        Rows that cannot be stored yet are sent again; Overloaded or Unavailable where that does not help.
        """
        examples = [row.example(_source(source)) for row in rows]
        acks: list[inference_pb2.ExampleAck] = []
        for start in range(0, len(examples), BATCH):
            acks += await self._learn(examples[start : start + BATCH])
        return acks

    async def status(self, prediction_id: str, feedback_id: str = "") -> learner_pb2.GetFeedbackStatusResponse:
        """What became of a feedback; of the newest on that prediction without `feedback_id`. NotFound: not read yet, or never sent.

        A labelled row of the id x is asked for as the prediction `example:x`.
        """
        request = learner_pb2.GetFeedbackStatusRequest(prediction_id=prediction_id, feedback_id=feedback_id)
        return await self._call(self._learner.GetFeedbackStatus, request)

    async def feedback_summary(self) -> learner_pb2.GetFeedbackSummaryResponse:
        """How much feedback is in each state, which signals were given, the 100 commonest reasons, and the live accuracy."""
        return await self._call(self._learner.GetFeedbackSummary, learner_pb2.GetFeedbackSummaryRequest())

    async def versions(self, limit: int = 20) -> list[learner_pb2.Version]:
        """The newest versions, newest first."""
        request = learner_pb2.ListVersionsRequest(limit=limit)
        return list((await self._call(self._learner.ListVersions, request)).versions)

    async def version(self, number: int) -> learner_pb2.GetVersionResponse:
        """Where one version came from and what was decided about it. NotFound: there is no such version."""
        return await self._call(self._learner.GetVersion, learner_pb2.GetVersionRequest(version=number))

    async def model(self) -> inference_pb2.GetModelResponse:
        """What is served now: model, labels, version, limits."""
        request = inference_pb2.GetModelRequest()
        return await self._call(self._inference.GetModel, request)

    # Orders: journalled by the learner with who and why

    async def promote(self, version: int, *, who: str, why: str = "") -> None:
        """Bless a published version by hand. NotFound: it never was published; NotNow: it is not kept any more."""
        await self._call(self._learner.Promote, learner_pb2.PromoteRequest(version=version, who=who, why=why))

    async def rollback(self, version: int, *, who: str, why: str = "") -> learner_pb2.RollbackResponse:
        """Serve an older version's weights again, as a new version; the feedback learnt since is quarantined. Raises as `promote` does."""
        return await self._call(self._learner.Rollback, learner_pb2.RollbackRequest(version=version, who=who, why=why))

    async def pin(self, version: int, *, who: str, why: str = "") -> None:
        """Keep a version from collection. Raises as `promote` does."""
        await self._call(self._learner.Pin, learner_pb2.PinRequest(version=version, who=who, why=why))

    async def unpin(self, version: int, *, who: str, why: str = "") -> None:
        """Let a pinned version go. NotNow: it is not pinned."""
        await self._call(self._learner.Unpin, learner_pb2.UnpinRequest(version=version, who=who, why=why))

    async def pause(self, *, who: str, why: str = "") -> None:
        """Take no more steps, over restarts too; feedback is still accepted and read."""
        await self._call(self._learner.Pause, learner_pb2.PauseRequest(who=who, why=why))

    async def resume(self, *, who: str, why: str = "") -> None:
        """Take steps again, also after the guard paused training."""
        await self._call(self._learner.Resume, learner_pb2.ResumeRequest(who=who, why=why))

    async def quarantine(self, limit: int = 100) -> learner_pb2.ListQuarantineResponse:
        """The newest feedback that is set aside, newest first, and how much there is in all."""
        return await self._call(self._learner.ListQuarantine, learner_pb2.ListQuarantineRequest(limit=limit))

    async def release(self, feedback: Sequence[tuple[str, str]] | None, *, who: str, why: str = "") -> int:
        """Let quarantined feedback train, named by (prediction_id, feedback_id), or all of it for None. How many were released."""
        if feedback is not None and not feedback:
            return 0  # on the wire no names mean all
        request = learner_pb2.ReleaseQuarantineRequest(feedback=_names(feedback), who=who, why=why)
        return (await self._call(self._learner.ReleaseQuarantine, request)).released

    async def drop(self, feedback: Sequence[tuple[str, str]] | None, *, who: str, why: str = "") -> int:
        """Reject quarantined feedback for good, named as for `release`. How many were rejected."""
        if feedback is not None and not feedback:
            return 0
        request = learner_pb2.DropQuarantineRequest(feedback=_names(feedback), who=who, why=why)
        return (await self._call(self._learner.DropQuarantine, request)).dropped

    async def forget(
        self, *, user: str = "", session_id: str = "", rebuild: bool = False, who: str, why: str = ""
    ) -> learner_pb2.ForgetResponse:
        """Erase all that a user, or a session, asked and judged. With `rebuild` training is redone without it: that takes time.

        NotNow: it cannot be done now; the reason says whether something was erased.
        """
        request = learner_pb2.ForgetRequest(user=user, session_id=session_id, rebuild=rebuild, who=who, why=why)
        return await self._call(self._learner.Forget, request)

    async def dead_letters(self, limit: int = 100) -> learner_pb2.ListDeadLettersResponse:
        """The newest records of the event log that could not be read, newest first, and how many there are in all."""
        return await self._call(self._learner.ListDeadLetters, learner_pb2.ListDeadLettersRequest(limit=limit))

    async def dead_letter(self, number: int) -> learner_pb2.GetDeadLetterResponse:
        """One of them, byte for byte. Raises NotFound."""
        return await self._call(self._learner.GetDeadLetter, learner_pb2.GetDeadLetterRequest(id=number))

    async def retry_dead_letters(self, numbers: Sequence[int] | None, *, who: str, why: str = "") -> learner_pb2.RetryDeadLettersResponse:
        """Read them again, all of them for None: how many could be read, and how many still cannot."""
        if numbers is not None and not numbers:
            return learner_pb2.RetryDeadLettersResponse()  # on the wire no numbers mean all
        request = learner_pb2.RetryDeadLettersRequest(ids=numbers, who=who, why=why)
        return await self._call(self._learner.RetryDeadLetters, request)

    async def accept_gap(self, *, who: str, why: str = "") -> list[learner_pb2.Gap]:
        """Go on behind records that the event log lost before they were read; what was passed over. NotNow: nothing is missing."""
        return list((await self._call(self._learner.AcceptGap, learner_pb2.AcceptGapRequest(who=who, why=why))).gaps)

    async def _submit(self, prediction: inference_pb2.Prediction | str, feedback: events_pb2.Feedback) -> inference_pb2.FeedbackAck:
        """Send one feedback. Its id is chosen before the first try, so that a try whose answer was lost counts once."""
        feedback.feedback_id = feedback.feedback_id or str(uuid.uuid4())
        if isinstance(prediction, str):
            feedback.prediction_id = prediction
        else:
            feedback.prediction_id, feedback.feedback_token = prediction.prediction_id, prediction.feedback_token
        feedback.created_at.GetCurrentTime()
        request = inference_pb2.SubmitFeedbackRequest(feedback=[feedback])
        return (await self._call(self._inference.SubmitFeedback, request)).acks[0]

    async def _learn(self, examples: Sequence[inference_pb2.LabelledExample]) -> list[inference_pb2.ExampleAck]:
        """Hand in one batch; what could not be stored now again, after a wait."""
        acks: dict[int, inference_pb2.ExampleAck] = {}
        left = list(range(len(examples)))
        for tried in range(1, _TRIES + 1):
            request = inference_pb2.SubmitExamplesRequest(examples=[examples[index] for index in left])
            answered = (await self._call(self._inference.SubmitExamples, request)).acks
            acks |= dict(zip(left, answered, strict=True))
            left = [index for index in left if acks[index].code in _LATER]
            if not left:
                return [acks[index] for index in range(len(examples))]
            await self._transport.sleep(_backoff(tried))
        raise Overloaded(f"{len(left)} rows could not be stored: {acks[left[0]].reason}")

    async def _call(self, rpc: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Call with what is left of the deadline; again, after a wait, where the service is away or full."""
        deadline = time.monotonic() + self._timeout
        for tried in range(1, _TRIES + 1):
            try:
                return await self._transport.send(rpc, request, deadline - time.monotonic())
            except grpc.RpcError as call:
                error = error_from(call)
                wait = _wait(error, tried)
                if wait is None or tried == _TRIES or time.monotonic() + wait >= deadline:
                    raise error from call
                await self._transport.sleep(wait)
        raise AssertionError("the last try returns or raises")


def _source(name: str) -> Any:
    if name not in _SOURCES:
        raise InvalidInput(f"{name!r} is none of human, expert, code, implicit", field="source")
    return _SOURCES[name]


def _names(feedback: Sequence[tuple[str, str]] | None) -> list[learner_pb2.FeedbackName]:
    return [learner_pb2.FeedbackName(prediction_id=prediction_id, feedback_id=feedback_id) for prediction_id, feedback_id in feedback or ()]


def _wait(error: LiveloopError, tried: int) -> float | None:
    """Seconds before the next try; None where another try cannot help. The server's RetryInfo is the least it takes."""
    if not isinstance(error, Unavailable | Overloaded):
        return None
    return max(_backoff(tried), error.retry_after) if isinstance(error, Overloaded) else _backoff(tried)


def _backoff(tried: int) -> float:
    return float(0.1 * 2 ** (tried - 1) * random.uniform(0.75, 1.25))
