"""What steps of a tiny model are recorded from, for the tests of the benchmarks. Knows no store."""

from __future__ import annotations

from liveloop.tasks import FeedbackExample, LabelledExample
from services.commands.bench.recorded import Source
from tests.tiny import tiny_bundle


def tiny_source() -> Source:
    bundle, bits = tiny_bundle()
    judged = [FeedbackExample(f"the film is {word}", 1, sign, 1.0) for word, sign in (("good", 1), ("bad", -1), ("dull", -1))]
    return Source(bundle, bits, judged, [LabelledExample("a fine film", 1), LabelledExample("a boring film", 0)])
