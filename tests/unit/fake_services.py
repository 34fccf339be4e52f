"""A loop to test its callers against: the real contract served over real gRPC, with a made-up model. Knows no service of ours."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from liveloop.errors import InvalidInput, LiveloopError, NotFound
from liveloop.rpc import details_of
from liveloop.v1 import inference_pb2 as inference
from liveloop.v1 import learner_pb2 as learner
from liveloop.v1.events_pb2 import Feedback
from liveloop.v1.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server
from liveloop.v1.learner_pb2_grpc import LearnerServiceServicer, add_LearnerServiceServicer_to_server

LABELS = ("negative", "neutral", "positive")
TRAINED_AFTER, SERVED_AFTER, SETTLE_EVERY = 0.3, 0.6, 0.3  # seconds; one version at SERVED_AFTER and three to settle after it


class FakeLoop(InferenceServiceServicer, LearnerServiceServicer):
    """Both services. Every accepted thumb moves the made-up model once it is `served`; `fail_next` answers the next calls with errors."""

    def __init__(self) -> None:
        self.target = ""
        self.requests: list[object] = []
        self.fail_next: list[LiveloopError] = []
        self.held_out = False
        self.wanted = False  # feedback, on every answer
        self.hold = False  # accepted feedback stays unread
        self.asked = threading.Event()  # a text was asked
        self.answering = threading.Event()  # answers leave while this is set
        self.answering.set()
        self.keys: list[str] = []  # that calls came with
        self.trusted = ""  # a call that comes with this key needs no token
        self.full_for: set[str] = set()  # texts of labelled rows that cannot be stored at the next try
        self.rows: dict[str, inference.LabelledExample] = {}
        self.judged: dict[tuple[str, str], tuple[Feedback, float]] = {}

    @property
    def version(self) -> int:
        """One version when a feedback is first served, then one for each settling step."""
        return 40 + sum(self._versions(at) for feedback, at in self.judged.values() if feedback.WhichOneof("signal") != "retraction")

    def Predict(self, request: inference.PredictRequest, context: grpc.ServicerContext) -> inference.PredictResponse:
        self._record(request, context)
        for index, one in enumerate(request.inputs):
            if not one.text:
                self._abort(InvalidInput("the text is empty", field=f"inputs[{index}].text"), context)
        self.asked.set()
        self.answering.wait(60)
        store = not request.HasField("store") or request.store
        return inference.PredictResponse(predictions=[self._answer(store) for _ in request.inputs])

    def SubmitFeedback(self, request: inference.SubmitFeedbackRequest, context: grpc.ServicerContext) -> inference.SubmitFeedbackResponse:
        self._record(request, context)
        return inference.SubmitFeedbackResponse(acks=[self._accept(feedback) for feedback in request.feedback])

    def SubmitExamples(self, request: inference.SubmitExamplesRequest, context: grpc.ServicerContext) -> inference.SubmitExamplesResponse:
        self._record(request, context)
        return inference.SubmitExamplesResponse(acks=[self._take(row) for row in request.examples])

    def GetModel(self, request: inference.GetModelRequest, context: grpc.ServicerContext) -> inference.GetModelResponse:
        self._record(request, context)
        return inference.GetModelResponse(
            model="fake", labels=LABELS, version=self.version, blessed_version=40, max_inputs=256, max_text_bytes=32_768
        )

    def GetFeedbackStatus(
        self, request: learner.GetFeedbackStatusRequest, context: grpc.ServicerContext
    ) -> learner.GetFeedbackStatusResponse:
        self._record(request, context)
        found = [
            (feedback_id, feedback, at)
            for (prediction_id, feedback_id), (feedback, at) in self.judged.items()
            if prediction_id == request.prediction_id and request.feedback_id in ("", feedback_id)
        ]
        if request.prediction_id.startswith("example:") and request.prediction_id.removeprefix("example:") in self.rows:
            return learner.GetFeedbackStatusResponse(state=learner.FEEDBACK_STATE_JOINED)
        if not found or self.hold:
            self._abort(NotFound("not read yet, or never sent"), context)
        feedback_id, feedback, at = found[-1]
        return self._status(feedback_id, feedback, at)

    def GetFeedbackSummary(
        self, request: learner.GetFeedbackSummaryRequest, context: grpc.ServicerContext
    ) -> learner.GetFeedbackSummaryResponse:
        self._record(request, context)
        return learner.GetFeedbackSummaryResponse(
            states=[learner.Count(name="expired", count=2), learner.Count(name="served", count=1234)],
            reasons=[learner.Count(name="too long", count=7)],
            live=[learner.LiveSlice(name="all", judged=1000, judges=70, accuracy=learner.Interval(value=0.83, low=0.805, high=0.85))],
            holdout_uplift=learner.Interval(value=0.041, low=-0.005, high=0.09),
        )

    def ListVersions(self, request: learner.ListVersionsRequest, context: grpc.ServicerContext) -> learner.ListVersionsResponse:
        self._record(request, context)
        newest = learner.Version(
            version=self.version, parent=39, kind="train", step=12, feedback=1, patch_bytes=912_345, current=True, pods=1
        )
        newest.created_at.FromSeconds(1_700_000_000)
        newest.state = learner.VERSION_STATE_ROLLED_BACK
        blessed = learner.Version(version=39, kind="settle", patch_bytes=1 << 33, blessed=True, accuracy=0.75, pinned=True)
        blessed.state = learner.VERSION_STATE_BLESSED
        blessed.scores.add(split="task", accuracy=0.75, rows=500)
        blessed.scores.add(split="feedback", accuracy=0.5, rows=12)
        return learner.ListVersionsResponse(versions=[newest, blessed][: request.limit or 20])

    def GetVersion(self, request: learner.GetVersionRequest, context: grpc.ServicerContext) -> learner.GetVersionResponse:
        self._record(request, context)
        if request.version != self.version:
            self._abort(NotFound(f"there is no version {request.version}"), context)
        found = learner.GetVersionResponse(task_rows=[3, 5], losses={"task_loss": 0.25}, erased=1, signer="ab" * 32)
        found.version.CopyFrom(learner.Version(version=self.version, parent=39, kind="train", step=12, feedback=2))
        name = learner.FeedbackName(prediction_id="p", feedback_id="f")
        found.feedback.add(feedback=name, signal="up", state=learner.FEEDBACK_STATE_SERVED)
        found.decisions.add(decision="promote", who="ann", why="users like it")
        return found

    def Forget(self, request: learner.ForgetRequest, context: grpc.ServicerContext) -> learner.ForgetResponse:
        self._record(request, context)
        done = learner.ForgetResponse(predictions=3, feedback=2, versions=[7, 9], rebuilt=12 if request.rebuild else 0)
        done.copies_lapse_at.FromSeconds(1_700_000_000)
        return done

    def Promote(self, request: learner.PromoteRequest, context: grpc.ServicerContext) -> learner.PromoteResponse:
        self._record(request, context)
        return learner.PromoteResponse()

    def Rollback(self, request: learner.RollbackRequest, context: grpc.ServicerContext) -> learner.RollbackResponse:
        self._record(request, context)
        return learner.RollbackResponse(version=41, quarantined=12)

    def Pin(self, request: learner.PinRequest, context: grpc.ServicerContext) -> learner.PinResponse:
        self._record(request, context)
        return learner.PinResponse()

    def Unpin(self, request: learner.UnpinRequest, context: grpc.ServicerContext) -> learner.UnpinResponse:
        self._record(request, context)
        return learner.UnpinResponse()

    def Pause(self, request: learner.PauseRequest, context: grpc.ServicerContext) -> learner.PauseResponse:
        self._record(request, context)
        return learner.PauseResponse()

    def Resume(self, request: learner.ResumeRequest, context: grpc.ServicerContext) -> learner.ResumeResponse:
        self._record(request, context)
        return learner.ResumeResponse()

    def ListQuarantine(self, request: learner.ListQuarantineRequest, context: grpc.ServicerContext) -> learner.ListQuarantineResponse:
        self._record(request, context)
        one = learner.QuarantinedFeedback(prediction_id="p" * 36, feedback_id="f" * 36, signal="down", reason="[it] was undone", step=7)
        return learner.ListQuarantineResponse(feedback=[one], total=3)

    def ReleaseQuarantine(
        self, request: learner.ReleaseQuarantineRequest, context: grpc.ServicerContext
    ) -> learner.ReleaseQuarantineResponse:
        self._record(request, context)
        return learner.ReleaseQuarantineResponse(released=len(request.feedback) or 3)

    def DropQuarantine(self, request: learner.DropQuarantineRequest, context: grpc.ServicerContext) -> learner.DropQuarantineResponse:
        self._record(request, context)
        return learner.DropQuarantineResponse(dropped=0)

    def _record(self, request: object, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.keys += [str(value) for name, value in context.invocation_metadata() if name == "authorization"]
        if self.fail_next:
            self._abort(self.fail_next.pop(0), context)

    def _abort(self, error: LiveloopError, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata(details_of(error))
        context.abort(grpc.StatusCode[error.code], error.reason)

    def _versions(self, accepted_at: float) -> int:
        passed = time.time() - accepted_at - SERVED_AFTER
        return 0 if self.held_out or self.hold or passed < 0 else min(4, 1 + int(passed / SETTLE_EVERY))

    def _answer(self, store: bool) -> inference.Prediction:
        version = self.version
        negative = 0.71 * 0.86 ** (version - 40)
        scores = sorted(zip((negative, 0.1, 0.9 - negative), LABELS, strict=True), reverse=True)
        answer = inference.Prediction(prediction_id=str(uuid.uuid4()), version=version, label=scores[0][1], propensity=1)
        answer.scores.extend(inference.LabelScore(label=label, score=score) for score, label in scores)
        answer.feedback_token = f"token of {answer.prediction_id}" if store else ""
        answer.feedback_wanted = store and self.wanted
        return answer

    def _accept(self, feedback: Feedback) -> inference.FeedbackAck:
        feedback_id = feedback.feedback_id or str(uuid.uuid4())
        rejected = inference.FeedbackAck(feedback_id=feedback_id, status=inference.ACK_STATUS_REJECTED)
        vouched = self.trusted != "" and self.keys[-1:] == [self.trusted]
        if feedback.feedback_token != f"token of {feedback.prediction_id}" and not vouched:
            rejected.MergeFrom(inference.FeedbackAck(code="PERMISSION_DENIED", field="feedback_token", reason="the token is not for this"))
            return rejected
        if feedback.WhichOneof("signal") == "correction" and feedback.correction.label not in LABELS:
            rejected.MergeFrom(inference.FeedbackAck(code="INVALID_ARGUMENT", field="correction.label", reason="there is no such label"))
            return rejected
        if (feedback.prediction_id, feedback_id) in self.judged:
            return inference.FeedbackAck(feedback_id=feedback_id, status=inference.ACK_STATUS_DUPLICATE)
        self.judged[feedback.prediction_id, feedback_id] = (feedback, time.time())
        return inference.FeedbackAck(feedback_id=feedback_id, status=inference.ACK_STATUS_ACCEPTED)

    def _take(self, row: inference.LabelledExample) -> inference.ExampleAck:
        if row.label not in LABELS:
            reason = f"the model has no label {row.label!r}"
            return inference.ExampleAck(
                id=row.id, status=inference.ACK_STATUS_REJECTED, code="INVALID_ARGUMENT", field="label", reason=reason
            )
        if row.input.text in self.full_for:
            self.full_for.remove(row.input.text)
            return inference.ExampleAck(id=row.id, status=inference.ACK_STATUS_REJECTED, code="RESOURCE_EXHAUSTED", reason="full")
        known = self.rows.setdefault(row.id, row) is not row
        return inference.ExampleAck(id=row.id, status=inference.ACK_STATUS_DUPLICATE if known else inference.ACK_STATUS_ACCEPTED)

    def _status(self, feedback_id: str, feedback: Feedback, at: float) -> learner.GetFeedbackStatusResponse:
        status = learner.GetFeedbackStatusResponse(feedback_id=feedback_id, state=learner.FEEDBACK_STATE_JOINED)
        status.accepted_at.FromMicroseconds(round(at * 1e6))
        passed = time.time() - at
        if feedback.WhichOneof("signal") == "retraction":
            status.state = learner.FEEDBACK_STATE_RETRACTED
        elif self.held_out:
            status.state = learner.FEEDBACK_STATE_HELD_OUT
        elif passed >= TRAINED_AFTER:
            status.state, status.step, status.version = learner.FEEDBACK_STATE_TRAINED, 31, 41
        if status.state == learner.FEEDBACK_STATE_TRAINED and passed >= SERVED_AFTER:
            status.state = learner.FEEDBACK_STATE_SERVED
            status.served_at.FromMicroseconds(round((at + SERVED_AFTER) * 1e6))
        return status


@contextmanager
def serve(loop: FakeLoop) -> Iterator[FakeLoop]:
    """Serve the fake on a free port of this machine while the context lasts."""
    server = grpc.server(ThreadPoolExecutor(8))
    add_InferenceServiceServicer_to_server(loop, server)
    add_LearnerServiceServicer_to_server(loop, server)
    loop.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield loop
    finally:
        server.stop(grace=None).wait()
