"""A process that holds a version, follows its store and serves nobody; tells its parent about every flip. Knows the parts of a pod.

{"version": 7, "at": 1234.5}        `at` in seconds, monotonic: comparable between processes of one machine
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future

from liveloop.events.sqlite import Verdict
from liveloop.settings import load_settings
from liveloop.times import unix_seconds
from liveloop.v1 import events_pb2
from services.commands.bench.worker import messages, tell
from services.inference.pod import load_pod
from services.inference.updater import Updater


class _Reports:
    """An event log that hands a pod's reports to the parent."""

    def offer(self, event: events_pb2.Event) -> bool:
        report = event.pod_report
        tell(version=report.version, at=unix_seconds(report.flipped_at))
        return True

    def accept(self, event: events_pb2.Event) -> Future[Verdict]:
        raise NotImplementedError("a pod without callers gets no feedback")


def main() -> None:
    """Follow the store of the settings in the first message until the parent has no more to say."""
    told = messages()
    settings = load_settings(**next(told))
    sys.setswitchinterval(0.001)  # as in the inference service
    pod = load_pod(settings, threading.Event())
    assert pod is not None
    updater = Updater(pod.subscriber, pod.replica, _Reports(), pod.tally, pod=pod.name, clock=time.monotonic)
    updater.start()
    for _ in told:
        pass
    updater.stop()


if __name__ == "__main__":
    main()
