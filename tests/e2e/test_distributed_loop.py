"""The loop on a real Kafka and a real Redis-protocol server: two pods fed by one learner, and either server away for a while."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from liveloop.settings import Settings
from liveloop.v1.inference_pb2 import FeedbackAck, Prediction
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.commands.processes import free_settings
from tests.e2e.running import PATIENCE, Running, wait_for
from tests.kafka_servers import KafkaServer
from tests.servers import ValkeyServer

TEXTS = ("a masterpiece", "dreadful", "it is what it is", "I laughed, I cried, I left", "ok")


@dataclass(frozen=True)
class Distributed:
    """Servers of this module's own, since its tests stop them, and a loop with two pods on them."""

    kafka: KafkaServer
    valkey: ValkeyServer
    first: Running
    second: Running


@pytest.fixture(scope="module")
def distributed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distributed]:
    folder = tmp_path_factory.mktemp("distributed")
    shutil.copytree(template, folder / "data")
    with ExitStack() as started:
        kafka, valkey = KafkaServer(folder / "kafka"), ValkeyServer(folder / "valkey")
        for server in (kafka, valkey):
            started.callback(server.kill)
            server.start()
        urls = {"events_url": f"kafka://{kafka.bootstrap}/feedback", "weights_url": valkey.url}
        settings = free_settings(Settings(data=folder / "data")).model_copy(update=urls)
        first = Running(settings)
        second = Running(pod_beside(settings, folder / "pod-2"), services=["inference"])
        for running in (first, second):
            started.callback(running.stop)
            running.start()
        yield Distributed(kafka, valkey, first, second)


def test_two_pods_serve_the_same_bytes_whoever_took_the_feedback(distributed: Distributed) -> None:
    first, second = distributed.first, distributed.second
    for pod, signal in ((first, "down"), (second, "down"), (first, "up")):
        prediction = pod.predict("a comedy in which nobody laughs")
        ack = pod.accepted(pod.client.feedback(prediction, signal))
        pod.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)
    assert same_answers(distributed) > 1
    current = first.client.versions(limit=1)[0]
    wait_for(lambda: first.client.versions(limit=1)[0].pods == 2, f"both pods report version {current.version}")


def test_predictions_and_feedback_go_on_while_the_broker_is_away_and_nothing_is_lost(distributed: Distributed) -> None:
    distributed.kafka.kill()
    judged = [(pod, *judge(pod)) for pod in (distributed.first, distributed.second) for _ in range(3)]
    assert distributed.first.answers()
    assert distributed.second.answers()
    distributed.kafka.start()
    for pod, prediction, ack in judged:
        pod.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED, seconds=2 * PATIENCE)
    assert same_answers(distributed) > 1


def test_predictions_and_learning_go_on_while_redis_is_away_and_the_pods_catch_up(distributed: Distributed) -> None:
    first, second = distributed.first, distributed.second
    before = first.wait_settled()
    distributed.valkey.kill()
    prediction, ack = judge(first)
    trained = first.wait_state(prediction, ack, State.FEEDBACK_STATE_TRAINED)
    assert first.answers()
    assert second.answers()
    assert first.client.model().version == before
    distributed.valkey.start()  # empty: it keeps nothing on disk
    first.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED, seconds=2 * PATIENCE)
    assert same_answers(distributed) >= trained.version


def test_a_pod_and_the_learner_start_while_both_servers_are_away(distributed: Distributed) -> None:
    first, second = distributed.first, distributed.second
    wait_for(lambda: any(second.settings.data.rglob("heads/*")), "the pod has a copy of its own")
    distributed.kafka.kill()
    distributed.valkey.kill()
    for running, service in ((second, "inference"), (first, "inference"), (first, "learner")):
        running.processes.kill(service)
    for running, service in ((second, "inference"), (first, "inference"), (first, "learner")):
        running.processes.restart(service)
    judged = [(pod, *judge(pod)) for pod in (first, second)]
    distributed.kafka.start()
    distributed.valkey.start()
    for pod, prediction, ack in judged:
        pod.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED, seconds=2 * PATIENCE)
    assert same_answers(distributed) > 1


def pod_beside(settings: Settings, data: Path) -> Settings:
    """Settings of a second pod: ports and a data folder of its own with none of the learner's files, and the keys that a pod needs."""
    keys = settings.data / "keys"
    own = free_settings(settings)
    return settings.model_copy(
        update={
            "data": data,
            "inference_listen": own.inference_listen,
            "inference_ops_listen": own.inference_ops_listen,
            "token_keys_file": keys / "tokens.json",
            "asker_key_file": keys / "asker.key",
            "verify_key_file": keys / "verify.key",
        }
    )


def judge(pod: Running) -> tuple[Prediction, FeedbackAck]:
    """One acknowledged thumb that will be trained on."""
    prediction = pod.predict("well meant, badly made")
    return prediction, pod.accepted(pod.client.feedback(prediction, "down"))


def same_answers(distributed: Distributed) -> int:
    """The version at which both pods settled; equal weights give equal scores, to the last bit."""
    first, second = distributed.first, distributed.second
    version = first.wait_settled()
    wait_for(lambda: second.client.model().version == version, f"the second pod serves version {version} too")
    for text in TEXTS:
        one, two = (pod.client.predict(text, store=False) for pod in (first, second))
        assert one.version == two.version == version
        assert [(score.label, score.score) for score in one.scores] == [(score.label, score.score) for score in two.scores]
    return version
