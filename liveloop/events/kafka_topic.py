"""The topic: created where it is missing, looked at where others made it. Knows Kafka's settings of a topic, not its records."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import AuthorizationError, TopicAlreadyExistsError, TopicAuthorizationFailedError

from liveloop.errors import Unavailable
from liveloop.events import SEGMENT
from liveloop.telemetry import logger

MESSAGE_BYTES = 8 << 20
"""Twice what gRPC lets in at most: no accepted event can be too large for a topic made here."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic should be."""

    name: str
    partitions: int  # where it has to be created; fixed for its life
    retention: float  # seconds
    window: float  # seconds in which a prediction must still be found

    def find_or_create(self, admin: KafkaAdminClient) -> int:
        """How many partitions it has. Raises Unavailable, or an error of Kafka."""
        if count := self._count(admin):
            for warning in self.shortcomings(self._settings(admin)):
                logger().warning(warning, topic=self.name)
            return count
        self._create(admin)
        if count := self._count(admin):
            return count
        raise Unavailable(f"the topic {self.name} has not appeared yet")

    def shortcomings(self, settings: dict[str, str]) -> list[str]:
        """What is wrong with a topic of these settings; nothing is known of what is not among them."""
        found = []
        if "compact" in settings.get("cleanup.policy", ""):
            found.append("the topic is compacted, which may drop events: set cleanup.policy=delete")
        kept = int(settings.get("retention.ms", -1)) / 1000
        if 0 <= kept < self.window:
            found.append(f"the topic keeps records for {kept:.0f} s, shorter than the feedback window of {self.window:.0f} s")
        if 0 <= int(settings.get("max.message.bytes", MESSAGE_BYTES)) < MESSAGE_BYTES:
            found.append(f"the topic refuses large records: set max.message.bytes={MESSAGE_BYTES}")
        return found

    def _create(self, admin: KafkaAdminClient) -> None:
        configs = {
            "cleanup.policy": "delete",
            "max.message.bytes": str(MESSAGE_BYTES),
            "retention.ms": str(int(self.retention * 1000)),
            "segment.ms": str(max(1, int(self.retention * 1000 * SEGMENT))),
        }
        try:
            with suppress(TopicAlreadyExistsError):  # another process was first
                admin.create_topics({self.name: {"num_partitions": self.partitions, "configs": configs}}, wait_for_metadata=True)
        except AuthorizationError as error:
            raise Unavailable(f"the topic {self.name} is not there, and this user may not create it") from error

    def _count(self, admin: KafkaAdminClient) -> int:
        topics: list[dict[str, Any]] = admin.describe_topics([self.name])
        if any(topic["error_code"] == TopicAuthorizationFailedError.errno for topic in topics):
            raise TopicAuthorizationFailedError
        return sum(len(topic["partitions"]) for topic in topics)

    def _settings(self, admin: KafkaAdminClient) -> dict[str, str]:
        """Those that this user may see."""
        resource = ConfigResource(ConfigResourceType.TOPIC, self.name)
        described = admin.describe_configs([resource], config_filter="all").get("topic", {}).get(self.name, {})
        return {name: setting["value"] for name, setting in described.items() if setting["value"] is not None}
