"""Kafka with TLS, users and an authorizer: each role gets in with just its rights, and whatever is wrong is said in a sentence."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
    UserScramCredentialUpsertion,
)

from liveloop.errors import Misconfigured, Unavailable
from liveloop.events import EventLog, open_log
from liveloop.settings import Settings
from tests.certificates import Authority
from tests.kafka_servers import KafkaServer, Listener
from tests.servers import free_port, wait_until
from tests.unit.event_samples import prediction

SHIPPED = Path(__file__).parents[2] / "deploy" / "kafka" / "acls.txt"
SCRAM, PLAIN = "SCRAM-SHA-512", "PLAIN"


class SecureKafka:
    """A broker that denies by default: users on one port, certificates on another; on the plain port everybody may do everything."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "authority")
        self.folder = folder
        self.users, self.certificates = (
            Listener(name, protocol, port, port)
            for name, protocol, port in (("USERS", "SASL_SSL", free_port()), ("CERTIFICATES", "SSL", free_port()))
        )
        self.server = KafkaServer(folder / "broker", *self._lines(), listeners=[self.users, self.certificates])

    def admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.server.bootstrap)

    def change_password(self, user: str, password: str) -> None:
        with self.admin() as admin:
            failures = admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, SCRAM, password, iterations=4096)])
        assert set(failures.values()) == {None}

    def grant(self, topic: str) -> None:
        """The shipped rights, for this topic."""
        acls = []
        for line in SHIPPED.read_text().splitlines():
            if not line.startswith("#"):
                principal, operations, resource = line.replace("topic:liveloop", f"topic:{topic}").split()
                pattern = ResourcePattern(ResourceType.TOPIC, resource.removeprefix("topic:"))
                named = {operation.name.replace("_", "").lower(): operation for operation in ACLOperation}
                acls += [
                    ACL(principal, "*", named[operation.lower()], ACLPermissionType.ALLOW, pattern) for operation in operations.split(",")
                ]
        with self.admin() as admin:
            assert not admin.create_acls(acls)["failed"]

    def create(self, topic: str, **configs: str) -> None:
        with self.admin() as admin:
            admin.create_topics({topic: {"num_partitions": 2, "configs": configs}}, wait_for_metadata=True)

    def _lines(self) -> list[str]:
        users, module = "listener.name.users", "org.apache.kafka.common.security"
        lines = [
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
            f"{users}.sasl.enabled.mechanisms={SCRAM},{PLAIN}",
            f"{users}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;",
            f'{users}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_learner="learner";',
            "listener.name.certificates.ssl.client.auth=required",
            "listener.name.certificates.ssl.principal.mapping.rules=RULE:^CN=(.*)$/$1/",
        ]
        for name in ("users", "certificates"):
            lines += [
                f"listener.name.{name}.ssl.keystore.type=PEM",
                f"listener.name.{name}.ssl.keystore.location={self.authority.server('127.0.0.1')}",
                f"listener.name.{name}.ssl.truststore.type=PEM",
                f"listener.name.{name}.ssl.truststore.location={self.authority.file}",
            ]
        return lines


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    kafka = SecureKafka(tmp_path_factory.mktemp("secure-kafka"))
    kafka.server.start()
    for user in ("inference", "learner", "nobody"):
        kafka.change_password(user, user)
    yield kafka
    kafka.server.kill()


@pytest.fixture
def topic(secure: SecureKafka) -> str:
    """A topic that an administrator made, with the shipped rights."""
    name = f"test-{uuid.uuid4().hex}"
    secure.create(name)
    secure.grant(name)
    return name


@pytest.fixture
def opened(secure: SecureKafka, tmp_path: Path) -> Iterator[Callable[..., EventLog]]:
    """Opens a topic as a user; every other setting can be replaced."""
    logs: list[EventLog] = []

    def open_it(topic: str, user: str, **changed: Any) -> EventLog:
        password = tmp_path / f"{user}.password"
        if not password.exists():
            password.write_text(f"{user}\n")
        url = f"kafkas://127.0.0.1:{secure.users.port}/{topic}"
        wanted = {"events_url": url, "kafka_username": user, "kafka_password_file": password, "kafka_ca_file": secure.authority.file}
        logs.append(open_log(Settings.model_validate({"data": tmp_path, **wanted, **changed})))
        return logs[-1]

    yield open_it
    for log in logs:
        log.close()


Opened = Callable[..., EventLog]


def texts(log: EventLog) -> list[str]:
    positions: dict[int, int] = {}
    found: list[str] = []
    while True:
        page = log.read(positions, limit=100, timeout=0.2)
        positions.update((record.partition, record.position + 1) for record in page.records)
        found += [event.prediction.prediction_id for record in page.records for event in record.events]
        if page.at_end == frozenset(log.partitions):
            return sorted(found)


def why_not_read(log: EventLog) -> str:
    with pytest.raises(Unavailable) as refused:
        log.read({}, limit=1, timeout=0.1)
    return refused.value.reason


def why_not_written(log: EventLog) -> str:
    with pytest.raises(Unavailable) as refused:
        log.append([prediction(1)])
    return refused.value.reason


def test_each_role_does_its_work_with_the_shipped_rights_and_no_other(opened: Opened, topic: str) -> None:
    inference, learner = opened(topic, "inference"), opened(topic, "learner")
    inference.append([prediction(number) for number in range(9)])

    assert texts(learner) == [f"prediction-{number}" for number in range(9)]
    assert f"does not let learner write to the topic {topic}" in why_not_written(learner)
    assert f"does not let inference read from the topic {topic}" in why_not_read(inference)


def test_a_user_without_any_right_is_told_which_topic_it_may_not_use(opened: Opened, topic: str) -> None:
    assert f"does not let nobody read from the topic {topic}" in why_not_read(opened(topic, "nobody"))
    assert f"does not let nobody write to the topic {topic}" in why_not_written(opened(topic, "nobody"))


def test_a_missing_topic_that_a_service_may_not_create_is_named(secure: SecureKafka, opened: Opened) -> None:
    missing = f"test-{uuid.uuid4().hex}"
    secure.grant(missing)
    assert f"the topic {missing} is not there, and this user may not create it" in why_not_written(opened(missing, "inference"))


def test_a_wrong_password_and_a_wrong_user_are_said_to_be_that(opened: Opened, topic: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("secret-but-wrong")
    for user in ("learner", "a-stranger"):
        said = why_not_read(opened(topic, user, kafka_password_file=wrong))
        assert "does not accept the user or the password" in said
        assert "secret-but-wrong" not in said


def test_a_password_that_was_changed_is_used_without_a_restart(secure: SecureKafka, opened: Opened, topic: str, tmp_path: Path) -> None:
    secure.change_password("learner", "first")
    password = tmp_path / "changing"
    password.write_text("first")
    log = opened(topic, "learner", kafka_password_file=password)
    assert texts(log) == []
    secure.change_password("learner", "learner")
    secure.server.stop()
    secure.server.start()
    said: list[str] = []

    def refused() -> bool:
        try:
            log.read({}, limit=1, timeout=0.1)
        except Unavailable as error:
            said.append(error.reason)
        return any("does not accept the user or the password" in reason for reason in said)

    wait_until(refused, timeout=60)
    password.write_text("learner")
    assert texts(log) == []


def test_a_password_file_that_went_away_is_named(opened: Opened, topic: str, tmp_path: Path) -> None:
    log = opened(topic, "learner")
    (tmp_path / "learner.password").unlink()
    assert "learner.password" in why_not_read(log)


def test_plain_passwords_are_accepted_within_tls(opened: Opened, topic: str) -> None:
    assert texts(opened(topic, "learner", kafka_sasl_mechanism=PLAIN)) == []


def test_a_mechanism_that_the_broker_does_not_offer_is_named(opened: Opened, topic: str) -> None:
    assert "does not offer SCRAM-SHA-256" in why_not_read(opened(topic, "learner", kafka_sasl_mechanism="SCRAM-SHA-256"))


def test_a_broker_of_another_authority_is_not_trusted(opened: Opened, topic: str, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    assert "cannot be trusted" in why_not_read(opened(topic, "learner", kafka_ca_file=other.file))
    assert "cannot be trusted" in why_not_read(opened(topic, "learner", kafka_ca_file=None))


def test_a_broker_whose_certificate_is_for_another_name_is_not_trusted(secure: SecureKafka, opened: Opened, topic: str) -> None:
    said = why_not_read(opened(topic, "learner", events_url=f"kafkas://localhost:{secure.users.port}/{topic}"))
    assert "cannot be trusted" in said
    assert "localhost" in said


def test_a_certificate_of_our_own_gets_in_and_none_does_not(secure: SecureKafka, opened: Opened, topic: str, tmp_path: Path) -> None:
    nobody = {"kafka_username": "", "kafka_password_file": None, "events_url": f"kafkas://127.0.0.1:{secure.certificates.port}/{topic}"}
    own, strange = secure.authority.client("learner"), Authority(tmp_path / "strange").client("learner")

    assert texts(opened(topic, "learner", **nobody, kafka_cert_file=own, kafka_key_file=own)) == []
    assert "refuses our certificate or its absence" in why_not_read(opened(topic, "learner", **nobody))
    said = why_not_read(opened(topic, "learner", **nobody, kafka_cert_file=strange, kafka_key_file=strange))
    assert "refuses our certificate or its absence" in said


def test_tls_on_one_side_only_is_said_to_be_that(secure: SecureKafka, opened: Opened, topic: str) -> None:
    speaking = opened(topic, "learner", events_url=f"kafkas://127.0.0.1:{secure.server.port}/{topic}")
    assert "does not speak TLS as we do" in why_not_read(speaking)
    silent = {"kafka_username": "", "kafka_password_file": None, "kafka_ca_file": None}
    said = why_not_read(opened(topic, "learner", **silent, events_url=f"kafka://127.0.0.1:{secure.users.port}/{topic}"))
    assert "asks for TLS (kafkas://)" in said


def test_a_broker_that_is_not_there_is_said_to_refuse_connections(opened: Opened) -> None:
    assert "refuses connections" in why_not_read(opened("topic", "learner", events_url=f"kafkas://127.0.0.1:{free_port()}/topic"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kafka_username": ""}, "both the name"),
        ({"kafka_password_file": "missing"}, "missing"),
        ({"kafka_ca_file": "missing"}, "missing"),
        ({"kafka_cert_file": "missing"}, "needs its key"),
        ({"events_url": "kafka://127.0.0.1:9/topic"}, "kafkas://"),
        ({"events_url": "kafka://127.0.0.1:9/topic", "kafka_ca_file": None, "kafka_sasl_mechanism": PLAIN}, "PLAIN sends the password"),
        ({"events_url": "kafkas://me:secret@127.0.0.1:9/topic"}, "names no user"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_at_the_start(opened: Opened, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(Misconfigured, match=said) as refused:
        opened("topic", "learner", **changed)
    assert "secret" not in refused.value.reason


def test_a_topic_made_here_keeps_records_for_the_set_time(secure: SecureKafka, tmp_path: Path) -> None:
    name = f"test-{uuid.uuid4().hex}"
    url = f"kafka://{secure.server.bootstrap}/{name}"
    with open_log(Settings(data=tmp_path, events_url=url, retention=90_000)) as log:
        assert texts(log) == []
    with secure.admin() as admin:
        configs = configs_of(admin, name)
    assert configs["retention.ms"] == "90000000"
    assert configs["cleanup.policy"] == "delete"


def test_a_topic_of_others_that_forgets_too_early_or_compacts_is_warned_of(
    secure: SecureKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"test-{uuid.uuid4().hex}"
    secure.create(name, **{"retention.ms": "60000", "cleanup.policy": "compact,delete"})
    with open_log(Settings(data=tmp_path, events_url=f"kafka://{secure.server.bootstrap}/{name}")) as log:
        assert texts(log) == []
    said = "".join(capsys.readouterr())
    assert "shorter than the feedback window" in said
    assert "is compacted" in said


def configs_of(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
    return {name: setting["value"] for name, setting in described["topic"][topic].items()}
