"""Finds memory that was damaged, one chunk at a time. Knows the subscriber and the replica; knows no store and no threads."""

from __future__ import annotations

import itertools

from liveloop.telemetry import counter, logger
from liveloop.weights.channels import Channel
from liveloop.weights.state import chunk_count
from liveloop.weights.subscriber import Subscriber, Update
from services.inference.replica import Replica


class Scrub:
    """Goes round all chunks: a patch digests what it touches, and frozen embeddings are touched by none. For the thread that updates."""

    def __init__(self, subscriber: Subscriber, replica: Replica) -> None:
        """Look at every state of `subscriber` and at what `replica` serves from it."""
        self._subscriber, self._replica = subscriber, replica
        self._places = itertools.count()
        self._damaged: set[Channel] = set()  # and not mended yet

    def step(self) -> Update | None:
        """Look at the next chunk, which takes under a millisecond; the update that mends it where it is damaged.

        Raises:
            WeightsRefused, Unavailable: it is, and cannot be fetched again now.
        """
        place, channels = next(self._places), sorted(self._subscriber.served)
        channel = channels[place % len(channels)]
        held = self._subscriber.served[channel]
        chunk = place // len(channels) % chunk_count(len(held.state.bits))
        if held.is_sound(chunk) and (
            self._replica.versions.get(channel) != held.version  # its update is still to be told of
            or self._replica.is_exact(channel, chunk)
        ):
            self._damaged.discard(channel)
            return None
        counter("weight_updates_total").labels("damaged").inc()
        if channel not in self._damaged:
            logger().error(
                "memory was damaged; the weights are fetched again", channel=channel.name.lower(), version=held.version, chunk=chunk
            )
        self._damaged.add(channel)
        return self._subscriber.mend(channel)
