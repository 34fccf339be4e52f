"""What can be set, with units and effects. Order: command line, environment (LIVELOOP_*), liveloop.toml, default. Connects to nothing."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from liveloop.errors import Misconfigured
from liveloop.policy import Policy


class Settings(BaseSettings):
    """Everything that can be set, frozen. A field's environment name is LIVELOOP_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="LIVELOOP_", toml_file="liveloop.toml", frozen=True, extra="forbid")

    data: Path = Field(Path("liveloop-data"), description="folder with all state of an embedded run")
    cache: Path = Field(Path("~/.cache/liveloop"), description="folder of the demo's model and data, and of finished warm starts")
    events_url: str = Field("", description="sqlite:///FILE or kafka[s]://HOST:PORT,HOST:PORT/TOPIC; empty: events.db in the data folder")
    weights_url: str = Field("", description="file:///FOLDER or redis://HOST:PORT (docs/operations.md); empty: weights/ in the data folder")
    redis_password_file: Path | None = Field(None, description="password of Redis, one line; read again for every new connection")
    redis_ca_file: Path | None = Field(None, description="certificate authority of Redis with TLS, PEM; empty: the system's")
    kafka_username: str = Field("", description="user of Kafka; empty: none is asked for")
    kafka_password_file: Path | None = Field(None, description="its password, one line; read again for every new connection")
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field("SCRAM-SHA-512", description="how it logs in")
    kafka_ca_file: Path | None = Field(None, description="certificate authority of Kafka with TLS, PEM; empty: the system's")
    kafka_cert_file: Path | None = Field(None, description="certificate to show to Kafka, PEM; empty: none")
    kafka_key_file: Path | None = Field(None, description="the key of that certificate, PEM, not encrypted")
    log_format: Literal["console", "json"] = Field("console", description="how log lines look")

    inference_listen: str = Field("127.0.0.1:50051", description="gRPC address of the inference service, host:port")
    learner_listen: str = Field("127.0.0.1:50052", description="gRPC address of the learner, host:port")
    gateway_listen: str = Field("127.0.0.1:8080", description="HTTP address of the gateway, host:port")
    gateway_ops_listen: str = Field("127.0.0.1:9100", description="metrics and probes of the gateway, host:port")
    inference_ops_listen: str = Field("127.0.0.1:9101", description="metrics and probes of the inference service, host:port")
    learner_ops_listen: str = Field("127.0.0.1:9102", description="metrics and probes of the learner, host:port")
    inference_target: str = Field("", description="where the gateway finds inference, host:port; empty: inference_listen")
    learner_target: str = Field("", description="where the gateway finds the learner, host:port; empty: learner_listen")

    tls_cert_file: Path | None = Field(
        None, description="certificate that all three services show, PEM; empty: no TLS; read again on change"
    )
    tls_key_file: Path | None = Field(None, description="its key, PEM, not encrypted")
    tls_client_ca_file: Path | None = Field(
        None, description="authority of the certificates that callers must show; empty: none are asked for"
    )
    tls_ca_file: Path | None = Field(
        None, description="authority of the services' certificates, for the gateway's calls and the client commands; empty: no TLS"
    )
    tls_client_cert_file: Path | None = Field(
        None, description="certificate and key that the gateway and the client commands show to the services, one PEM file"
    )
    allowed_origins: str = Field("", description="origins whose pages may read the gateway's answers, with commas; empty: loopback ones")
    allowed_hosts: str = Field("", description="host names of the gateway, with commas, beside loopback ones and that of gateway_listen")
    trusted_proxies: str = Field(
        "127.0.0.0/8,::1", description="our proxies and gateways, CIDR, with commas: not limited, X-Forwarded-For read"
    )
    limit_per_address: float = Field(
        100.0, gt=0, description="inputs, judgements, rows and other calls a second of one address; ten times that at once"
    )
    limit_per_user: float = Field(100.0, gt=0, description="inputs a second of one user of one API key; ten times that at once")
    limit_per_key: float = Field(5000.0, gt=0, description="inputs, judgements and rows a second of one API key; ten times that at once")

    token_keys_file: Path | None = Field(None, description="keys of the feedback tokens; empty: keys/tokens.json in the data folder")
    api_keys_file: Path | None = Field(None, description="hashes of the API keys; empty: keys/api.json in the data folder, if it is there")
    gateway_key_file: Path | None = Field(None, description="API key the gateway shows for callers who show none, one line; empty: none")
    asker_key_file: Path | None = Field(None, description="key of the askers' hashes; empty: keys/asker.key in the data folder")
    signing_key_file: Path | None = Field(None, description="the learner's Ed25519 key; empty: keys/signing.key in the data folder")
    verify_key_file: Path | None = Field(None, description="its public half; empty: keys/verify.key in the data folder")

    key_file: Path | None = Field(None, description="API key that the client commands present, one line; empty: none")

    feedback_window: float = Field(86_400.0, gt=0, description="seconds in which an answer can be judged: token lifetime and join window")
    history: float = Field(30 * 86_400.0, gt=0, description="seconds for which trained examples stay, so that the journal can be redone")
    ack: Literal["local", "broker"] = Field("local", description="acknowledge feedback after the local fsync, or after Kafka has it")
    log_capacity: int = Field(1 << 30, ge=1 << 20, description="bytes an event log file or outbox may hold")
    retention: float = Field(7 * 86_400.0, gt=0, description="seconds that a Kafka topic which liveloop has to create keeps its records")
    topic_partitions: int = Field(6, ge=1, description="partitions of a Kafka topic that liveloop has to create")

    pod: str = Field("", description="this pod's name in reports; empty: host name and process id")
    inference_threads: int = Field(0, ge=0, description="compute threads of inference; 0: half the cores")
    queue_limit: int = Field(1024, ge=1, description="inputs that may wait for the model before calls are refused")
    batch_tokens: int = Field(4096, ge=1, description="padded tokens in one forward pass at most")
    max_text_bytes: int = Field(32_768, ge=1, description="bytes in one text at most")

    policy: str = Field("argmax", description="which label is shown: argmax, epsilon:E or temperature:T; exploring costs right answers")
    ask_share: float = Field(0.1, ge=0, le=1, description="of the stored answers, the most doubtful: those on which feedback_wanted is set")
    holdout_share: float = Field(
        0.0, ge=0, lt=1, description="share of users whom version 1 answers for good and who teach nothing; 0: nobody"
    )
    canary_share: float = Field(1.0, gt=0, le=1, description="share of users who get the newest version, the rest the blessed one; 1: all")

    device: str = Field("auto", description="where the learner computes: auto, cpu, cuda, cuda:N")
    learner_threads: int = Field(0, ge=0, description="compute threads of the learner; 0: all cores, at nice 10")
    objective: Literal["auto", "complementary", "cross_entropy", "kl", "kto", "bco", "policy_gradient"] = Field(
        "auto", description="what a judgement teaches: `liveloop objectives` says when to use which"
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="what takes the steps; sgd has momentum")
    learning_rate: float | None = Field(None, gt=0, description="its full height; empty: by scope and optimizer")
    feedback_weight: float = Field(1.0, ge=0, description="lambda in L_task + lambda * L_FB")
    kl_weight: float = Field(
        0.0, ge=0, description="of KL(version 1 || model) in what a step minimises; 0: version 1 is not kept in memory"
    )
    default_reward: float | None = Field(
        None, ge=0, le=1, description="rating of a shown answer that nobody judged in the window; empty: none"
    )
    expert_weight: float = Field(2.0, gt=0, description="what an expert's word weighs in a step, where anybody else's weighs 1")
    expert_share: float = Field(0.5, gt=0, le=1, description="of a step's weight that experts have at the most together")
    influence_cap: float = Field(
        0.01, gt=0, le=1, description="of the last 1,000 feedbacks what one judge weighs at most, or 3 / number of judges; 1: no cap"
    )
    trust: bool = Field(False, description="weigh a judge less who agrees with the model less often than others do")
    burst_quarantine: bool = Field(False, description="set aside what a few accounts say that suddenly give much of the feedback")
    warm_up: int = Field(10, ge=0, description="steps from fresh moments over which the learning rate rises to its full height")
    ema_decay: float = Field(0.98, ge=0, lt=1, description="per step: served = decay * served + (1 - decay) * master; less after a pause")
    clip_norm: float = Field(1.0, gt=0, description="L2 norm to which gradients are clipped")
    micro_batch: int = Field(8, ge=1, description="nominal feedbacks in a step, and labelled task rows beside them")
    micro_batch_limit: int = Field(64, ge=1, description="feedbacks in a step at most, when more wait")
    step_interval: float = Field(0.2, ge=0, description="seconds from one step's start to the next at the least")
    consolidate_after: float | None = Field(
        None, ge=0, description="seconds without new feedback after which stored feedback is gone over again; empty: never"
    )
    publish: Literal["fast", "gated"] = Field(
        "fast", description="publish every step's version at once, or only versions that passed the full evaluation"
    )
    scope: str = Field("", description="what is trained: all, no-embeddings, last-N, head, lora-R; empty: as `init` made it, no-embeddings")
    take_over: bool = Field(False, description="replace the head of another model in Redis; without it the learner stops with one sentence")
    seed: int = Field(0, ge=0, description="seed of the journal's random choices")

    @field_validator("policy")
    @classmethod
    def _a_policy_that_can_be_followed(cls, text: str) -> str:
        return Policy.parse(text).name

    @model_validator(mode="after")
    def _what_is_kept_covers_the_window(self) -> Self:
        if self.history < self.feedback_window:
            raise ValueError("history must not be shorter than feedback_window")
        if self.retention < self.feedback_window:
            raise ValueError("retention must not be shorter than feedback_window")
        return self

    @model_validator(mode="after")
    def _a_canary_serves_what_is_not_blessed_yet(self) -> Self:
        if self.canary_share < 1 and self.publish == "gated":
            raise ValueError("canary_share below 1 and publish = gated exclude each other: a canary tries what gated publishing holds back")
        return self

    @property
    def events(self) -> str:
        """The event log's URL, default filled in."""
        return self.events_url or f"sqlite:///{(self.data / 'events.db').absolute()}"

    @property
    def weights(self) -> str:
        """The weight store's URL, default filled in."""
        return self.weights_url or f"file:///{str((self.data / 'weights').absolute()).lstrip('/')}"

    @property
    def embedded(self) -> bool:
        """Both ports are files on this machine."""
        return self.events.startswith("sqlite:") and self.weights.startswith("file:")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  pydantic passes all four by name
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line, environment, liveloop.toml."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(**command_line: Any) -> Settings:
    """Read the settings; `None` on the command line means not given.

    Raises:
        Misconfigured: a value is not of its type, out of range, or unknown.
    """
    try:
        return Settings(**{name: value for name, value in command_line.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        which = f"the setting {name} is" if name else "the settings are"
        raise Misconfigured(f"{which} not usable: {first['msg']}") from error
    except ValueError as error:  # a liveloop.toml that is not TOML
        raise Misconfigured(f"liveloop.toml cannot be read: {error}") from error


def host_port(address: str) -> tuple[str, int]:
    """Split `host:port`.

    Raises:
        Misconfigured: it is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit()):
        raise Misconfigured(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether `host:port` can be reached from this machine alone. A name is resolved by nobody: only localhost counts."""
    host, _ = host_port(address)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
