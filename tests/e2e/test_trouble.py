"""What a person gets when something is wrong: one sentence and exit code 2, or a loop that goes on serving. And how `liveloop up` ends."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from liveloop.settings import Settings, host_port
from liveloop.v1.learner_pb2 import FeedbackState as State
from services.commands.processes import free_settings
from tests.e2e.conftest import NewLoop
from tests.e2e.running import LIVELOOP, Running, wait_for


def test_a_port_in_use_is_one_sentence(loop: Running, template: Path) -> None:
    _, taken = host_port(loop.settings.inference_listen)
    said = refusal([LIVELOOP, "up", "--data", template, "--grpc-port", str(taken)], free_settings(Settings()))
    assert str(taken) in said


@pytest.mark.parametrize("service", ["inference", "learner"])
def test_a_port_in_use_is_one_sentence_from_a_service_itself(loop: Running, template: Path, tmp_path: Path, service: str) -> None:
    shutil.copytree(template, tmp_path / "data")
    taken = getattr(loop.settings, f"{service}_listen")
    settings = free_settings(Settings(data=tmp_path / "data")).model_copy(update={f"{service}_listen": taken})
    assert taken in refusal([sys.executable, "-P", "-m", f"services.{service}"], settings)


@pytest.mark.parametrize("service", ["inference", "learner"])
def test_a_service_without_its_keys_is_one_sentence(template: Path, tmp_path: Path, service: str) -> None:
    shutil.copytree(template, tmp_path / "data", ignore=shutil.ignore_patterns("keys"))
    said = refusal([sys.executable, "-P", "-m", f"services.{service}"], free_settings(Settings(data=tmp_path / "data")))
    assert "keys" in said
    assert "liveloop init" in said


def test_up_without_its_keys_is_one_sentence(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "data", ignore=shutil.ignore_patterns("keys"))
    assert "keys" in refusal([LIVELOOP, "up", "--data", tmp_path / "data"], free_settings(Settings()))


def test_a_setting_out_of_range_is_one_sentence(tmp_path: Path) -> None:
    said = refusal([LIVELOOP, "up", "--data", tmp_path / "data"], environment={"LIVELOOP_EMA_DECAY": "2"})
    assert "ema_decay" in said


def test_a_blob_that_was_changed_is_refused_and_the_old_version_goes_on(new_loop: NewLoop) -> None:
    running = new_loop()
    inference = running.processes.processes["inference"]
    prediction = running.predict("a version that nobody may serve")
    before = running.client.model().version
    ack = running.accepted(running.client.feedback(prediction, "up"))
    inference.send_signal(signal.SIGSTOP)  # before the learner has published: the pod reads what is changed below
    old = blobs(running)
    running.wait_state(prediction, ack, State.FEEDBACK_STATE_TRAINED)
    wait_for(lambda: running.client.versions(limit=1)[0].kind == "settle", "the version is out")
    patch = max(blobs(running) - old, key=lambda path: path.stat().st_size)
    good = patch.read_bytes()
    patch.chmod(0o600)
    patch.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    inference.send_signal(signal.SIGCONT)
    wait_for(lambda: refusals(running) > 0, "the pod counts a refusal")
    assert running.client.predict("still there", store=False).version == before
    patch.write_bytes(good)
    running.wait_state(prediction, ack, State.FEEDBACK_STATE_SERVED)


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_up_ends_cleanly_and_leaves_nothing_behind(template: Path, tmp_path: Path, way: signal.Signals) -> None:
    with up(template, tmp_path) as (process, settings):
        children = children_of(process.pid)
        assert len(children) == 3
        process.send_signal(way)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert "Traceback" not in output
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
        assert "Traceback" not in "".join(path.read_text() for path in (settings.data / "logs").iterdir())


def test_up_starts_a_service_again_that_died(template: Path, tmp_path: Path) -> None:
    with up(template, tmp_path) as (process, settings):
        killed = next(pid for pid in children_of(process.pid) if b"services.inference" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{killed}").exists(), "it is gone")
        running = Running(settings)
        wait_for(running.answers, "inference answers again")
        running.client.close()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert "the inference was ended by signal 9" in output


def refusal(command: list[str | Path], settings: Settings | None = None, environment: dict[str, str] | None = None) -> str:
    """The one sentence of a command that must end with exit code 2."""
    variables = {**os.environ, **variables_of(settings), **(environment or {})}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.strip() and "add_port.cc" not in line]  # gRPC's own word on a port
    assert len(sentences) == 1, done.stderr
    return sentences[0]


def variables_of(settings: Settings | None) -> dict[str, str]:
    if settings is None:
        return {}
    return {f"LIVELOOP_{name.upper()}": str(value) for name, value in settings.model_dump(exclude_defaults=True).items()}


@contextmanager
def up(template: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Settings]]:
    """`liveloop up` on a copy of the initialised folder, once it says that it is ready."""
    shutil.copytree(template, tmp_path / "data")
    settings = free_settings(Settings(data=tmp_path / "data"))
    process = subprocess.Popen(
        [LIVELOOP, "up"], env={**os.environ, **variables_of(settings)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert f"http://localhost:{host_port(settings.gateway_listen)[1]}" in first, first
        yield process, settings
    finally:
        process.kill()
        process.wait()


def children_of(parent: int) -> list[int]:
    stats = [path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat")]
    return [int(head.split()[0]) for head, _, rest in stats if int(rest.split()[1]) == parent]


def blobs(running: Running) -> set[Path]:
    return {path for path in (running.settings.data / "weights").rglob("*") if path.is_file() and "heads" not in path.parts}


def refusals(running: Running) -> float:
    """Updates that the pod did not apply."""
    with urllib.request.urlopen(f"http://{running.settings.inference_ops_listen}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("liveloop_weight_updates_total{")]
    return sum(float(line.split()[-1]) for line in counts if 'result="applied"' not in line)
