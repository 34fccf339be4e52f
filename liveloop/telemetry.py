"""What an operator sees: the metrics, the log lines and the operations listener. Knows no service's insides.

Every metric is registered when it is first asked for, so that a process shows only its own.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from functools import wraps
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from typing import Any, TypeVar

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from liveloop.errors import Misconfigured
from liveloop.ports import family
from liveloop.settings import host_port

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_FRESHNESS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_BYTES = tuple(float(1 << n) for n in range(10, 27, 2))
_BATCH = tuple(float(1 << n) for n in range(9))

_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "predict_requests_total": ("Predict calls, by gRPC status.", ("code",)),
    "feedback_received_total": ("Feedback items, by signal and by what was answered.", ("signal", "result")),
    "examples_received_total": ("Labelled rows, by what was answered.", ("result",)),
    "feedback_outcomes_total": ("Feedbacks that reached a state in the learner.", ("outcome",)),
    "outbox_shed_total": ("Prediction events not stored because the log was nearly full.", ()),
    "dead_letters_total": ("Records of the event log set aside because something in them could not be used, by what.", ("reason",)),
    "dead_letters_dropped_total": ("Dead letters that went because there were too many: the oldest.", ()),
    "weight_updates_total": ("Updates of the served weights, by result.", ("result",)),
    "learner_steps_total": ("Training steps taken.", ()),
    "versions_published_total": ("Versions published, by the kind of row that made them.", ("kind",)),
    "guard_decisions_total": ("Decisions of the guard.", ("decision",)),
    "calls_limited_total": ("Calls refused by a limit, by what asked too much.", ("by",)),
    "http_requests_total": ("Answers of the gateway, by route and HTTP status.", ("route", "status")),
}
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "queue_depth": ("Inputs waiting for the model.", ()),
    "outbox_bytes": ("Bytes in the event log file or outbox.", ()),
    "outbox_capacity_bytes": ("Bytes it may hold.", ()),
    "outbox_oldest_event_timestamp_seconds": ("Unix time of the oldest event not yet read or relayed; 0 when there is none.", ()),
    "model_version": ("The version served, or last published.", ()),
    "model_blessed_version": ("The version that the blessed channel serves, while there is a canary.", ()),
    "model_version_timestamp_seconds": ("Unix time at which that version was made.", ()),
    "learner_loss": ("Mean loss of the last step, by component.", ("component",)),
    "learner_last_step_timestamp_seconds": ("Unix time of the last training step.", ()),
    "learner_lag_events": ("Feedbacks read and joined that wait for a step.", ()),
    "learner_active": ("1 while this process holds the lease, 0 while it stands by.", ()),
    "learner_gap": ("1 while records are missing in the event log and an operator has not accepted that; nothing is read.", ()),
    "learner_rate": ("Factor on the learning rate: below 1 where validation has stopped improving.", ()),
    "learner_paused": ("1 while no steps are taken, by the word of an operator or the guard.", ()),
    "learner_rebuild_progress": ("Share of the rows redone, while training is redone without what was erased; 0 when it is not.", ()),
    "evaluation_score": ("The last full evaluation.", ("metric", "split")),
    "live_accuracy": ("Share of the newest judged answers that were right, by what they have in common.", ("slice",)),
    "live_judged": ("Judgements that this share is of.", ("slice",)),
    "holdout_uplift": ("Live accuracy of users served by what was learnt, less that of those held out; 95 %.", ("bound",)),
    "build_info": ("Always 1; what runs here.", ("version", "service")),
}
_HISTOGRAMS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "predict_duration_seconds": ("From the call to its answer.", (), _SECONDS),
    "batch_size": ("Inputs in one forward pass.", (), _BATCH),
    "weight_update_duration_seconds": ("Time of one stage of an update.", ("stage",), _SECONDS),
    "feedback_to_served_seconds": ("From the acceptance of a feedback to the flip to weights that include it.", (), _FRESHNESS),
    "patch_bytes": ("Bytes of a published patch.", (), _BYTES),
}
_CLOSED: dict[str, tuple[tuple[str, ...], ...]] = {
    "predict_requests_total": (("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL"),),
    "examples_received_total": (("accepted", "duplicate", "rejected", "failed"),),
    "feedback_received_total": (
        ("up", "down", "rating", "correction", "retraction", "none"),
        ("accepted", "duplicate", "rejected", "failed"),
    ),
    "feedback_outcomes_total": (
        ("pending", "joined", "trained", "served", "held_out", "superseded", "retracted", "quarantined", "expired", "rejected"),
    ),
    "dead_letters_total": (("undecodable", "format", "kind", "id", "number", "time", "text"),),
    "weight_updates_total": (("applied", "refused", "unavailable", "failed", "damaged"),),
    "weight_update_duration_seconds": (("fetch", "patch", "keyframe", "flip"),),
    "versions_published_total": (("init", "train", "settle", "consolidate", "reset", "rebase"),),
    "calls_limited_total": (("key", "user", "address"),),
    "guard_decisions_total": (("bless", "watch", "promote", "rollback", "refuse", "burst"),),
}
"""The values of each label, where they are known beforehand."""

_Metric = TypeVar("_Metric", bound=MetricWrapperBase)
_lock = threading.Lock()


def _once(make: Callable[[str], _Metric]) -> Callable[[str], _Metric]:
    """`make`, called once for each name, whichever threads ask for it first."""
    made: dict[str, _Metric] = {}

    @wraps(make)
    def get(name: str) -> _Metric:
        with _lock:
            if name not in made:
                made[name] = make(name)
            return made[name]

    return get


@_once
def counter(name: str) -> Counter:
    """The counter `liveloop_<name>`. Raises KeyError for a name that is not in the table."""
    text, labels = _COUNTERS[name]
    return Counter(f"liveloop_{name}", text, labels)


@_once
def gauge(name: str) -> Gauge:
    """The gauge `liveloop_<name>`. Raises KeyError for a name that is not in the table."""
    text, labels = _GAUGES[name]
    return Gauge(f"liveloop_{name}", text, labels)


@_once
def histogram(name: str) -> Histogram:
    """The histogram `liveloop_<name>`. Raises KeyError for a name that is not in the table."""
    text, labels, buckets = _HISTOGRAMS[name]
    return Histogram(f"liveloop_{name}", text, labels, buckets=buckets)


def announce(*names: str) -> None:
    """Show these counters and histograms from now on, at 0 for every label value known beforehand: a rate needs a first value.

    Raises KeyError for a name that is not in the tables.
    """
    for name in names:
        metric = counter(name) if name in _COUNTERS else histogram(name)
        if name in _CLOSED:
            for values in product(*_CLOSED[name]):
                metric.labels(*values)


def logger(**context: str) -> Any:
    """A structlog logger, which takes `event, **fields`, with `context` in every line."""
    return structlog.get_logger(**context)


def set_up_logs(log_format: str) -> None:
    """Write log lines to standard error, for people ("console") or for machines ("json")."""
    for_people = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if log_format == "json" else for_people
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks if log_format == "json" else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    for noisy in ("kafka", "httpx", "transformers"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


class OperationsServer:
    """`/metrics`, `/livez` and `/readyz` on a listener of their own; neither probe looks at Kafka, Redis or another service."""

    def __init__(self, address: str, ready: Callable[[], bool]) -> None:
        """Listen on `address` (host:port); `/readyz` answers 200 while `ready()`. Raises Misconfigured when the port is in use."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(200, generate_latest(), CONTENT_TYPE_LATEST)
                elif self.path == "/livez":
                    self._answer(200, b'{"live":true}', "application/json")
                elif self.path == "/readyz":
                    is_ready = ready()
                    self._answer(200 if is_ready else 503, json.dumps({"ready": is_ready}).encode(), "application/json")
                else:
                    self._answer(404, b'{"routes":["/metrics","/livez","/readyz"]}', "application/json")

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Probes are not worth a log line."""

        host, port = host_port(address)

        class Server(ThreadingHTTPServer):
            address_family = family(host)

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            reason = f"cannot listen on {address} ({error.strerror}); is liveloop already running? choose another port"
            raise Misconfigured(reason) from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="operations", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
