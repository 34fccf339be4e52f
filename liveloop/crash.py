"""Named places where a test may end this process by SIGKILL. Knows its own name in the environment, and nothing of what happens there.

It is product code that only tests arm, because what is to be shown is what the real process leaves behind when it ends between two given
lines: a fake that raises there would run `finally` blocks, roll transactions back and flush files, which a crash does not. Without the
variable a point is one comparison of strings.
"""

from __future__ import annotations

import itertools
import os
import signal

ARMED = "LIVELOOP_TEST_CRASH"
"""NAME or NAME:N: end at the N-th pass of that point."""

POINTS = (
    "after-append",  # intake: the events are on disk, nobody was told
    "after-ack",  # intake: their callers were told
    "after-relay",  # relay: the broker has the rows, the outbox does not know it
    "after-read",  # learner: a page was read
    "after-ingest",  # its events and the positions are in the journal
    "after-compute",  # a step's gradients are there
    "after-journal",  # the row of a step is there, its version is not
    "after-blob",  # publish: one of the version's blobs is there
    "after-blobs",  # all of them and its manifest, the head is not
    "after-head",  # the head is there, the journal does not know it
    "after-bless",  # the head says blessed, the journal does not know it
    "after-reset",  # the row of a reset is there, its version is not
    "before-tensor-fsync",  # a set of tensors is written, perhaps not on disk
    "after-tensor-rename",  # it has its name, older sets are still there
    "after-mirror-blobs",  # Redis has the blobs, not the head
    "after-mirror-head",  # and the head, which the mirror has not noted
    "after-flip",  # a pod serves a version and has not reported it
)

_name, _, _passes = os.environ.get(ARMED, "").partition(":")
_last = int(_passes or 1)
_passed = itertools.count(1)


def point(name: str) -> None:
    """End the process here, where this point is armed and passed for the last time."""
    if name == _name and next(_passed) == _last:
        os.kill(os.getpid(), signal.SIGKILL)
