"""A flat state that is one version, and how it becomes another. Knows bits and manifests; knows no head and no channel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from liveloop.errors import BlobCorrupt, BlobMissing, WrongLayout
from liveloop.telemetry import histogram
from liveloop.times import unix_seconds
from liveloop.v1.weights_pb2 import Manifest
from liveloop.weights.records import Records
from liveloop.weights.route import Route, find_route
from liveloop.weights.state import FlatState


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move changed."""

    newer: list[Manifest]  # the versions that were passed, oldest first, as far as the store still has them
    chunks: list[int] | None  # those with values that may differ from before; None: any may


class VersionedState:
    """A verified copy of one version. `state` stays the same object, over the same array."""

    def __init__(self, state: FlatState, manifest: Manifest) -> None:
        """Take over `state`, the version that `manifest` describes."""
        self.state = state
        self._manifest = manifest

    @property
    def version(self) -> int:
        """The version this is."""
        return self._manifest.version

    @property
    def created_at(self) -> float:
        """When that version was made, Unix seconds."""
        return unix_seconds(self._manifest.created_at)

    @property
    def traceparent(self) -> str:
        """W3C trace context of the step that made that version; empty where it was not traced."""
        return self._manifest.traceparent

    def is_sound(self, chunk: int) -> bool:
        """Digest one chunk anew; False where memory was damaged, there or in a chunk that was digested before."""
        self.state.rehash([chunk])
        return self.state.digest == self._manifest.state_digest

    def twin(self) -> VersionedState:
        """A copy that moves by itself."""
        return VersionedState(FlatState(self.state.bits.copy()), self._manifest)

    def move(self, records: Records, line: Sequence[Manifest]) -> Moved:
        """Become the version at the end of `line`, which begins with a keyframe; by patches, or over the keyframe where that is less.

        Raises:
            WeightsRefused: what the store holds cannot be trusted or is for another layout; the state is as before.
            Unavailable: the store cannot be reached; the state is as before.
        """
        route = find_route(records, line, self.version, self.state)
        for manifest in (*line, *route.newer):
            self._check(manifest)
        chunks = self._become(records, line, route)
        self._manifest = line[-1]
        return Moved(route.newer, chunks)

    def _check(self, manifest: Manifest) -> None:
        mine = self._manifest
        if manifest.layout_digest != mine.layout_digest or manifest.model_digest != mine.model_digest:
            raise WrongLayout(f"version {manifest.version} is for another layout or model")

    def _become(self, records: Records, line: Sequence[Manifest], route: Route) -> list[int] | None:
        """Bring the state to the end of `line`, and return the chunks that may have changed."""
        if self.state.digest == line[-1].state_digest:
            return []  # as when old weights come back
        if route.by_patches:
            try:
                with _timed("fetch"):
                    patches = records.patches(route.newer)
                with _timed("patch"):
                    return self.state.apply_chain(patches, line[-1].state_digest)
            except (BlobCorrupt, BlobMissing):
                if len(route.newer) < len(line):
                    raise  # the way over the keyframe needs these patches too; those before it nobody may ever put back
        with _timed("keyframe"):
            self.state.rehash()  # a chunk that was damaged in memory is fetched like one that changed
            self.state.assign(records.restore(line, len(self.state.bits), self.state))
        return None


def _timed(stage: str) -> AbstractContextManager[object]:
    return histogram("weight_update_duration_seconds").labels(stage).time()
