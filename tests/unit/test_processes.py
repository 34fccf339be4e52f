"""The child processes of a loop, with services of a few lines in place of the real ones."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from services.commands.processes import Loop, free_settings
from services.commands.up import _QUICK_DEATHS, supervise

SERVICE = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

name = {name!r}
host, port = os.environ[f"LIVELOOP_{{name.upper()}}_OPS_LISTEN"].split(":")
Path(os.environ["LIVELOOP_DATA"], name + ".json").write_text(json.dumps(dict(os.environ)))

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

def stop(*_):
    with Path(os.environ["LIVELOOP_DATA"], "stopped").open("a") as file:
        file.write(name + "\\n")
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
HTTPServer((host, int(port)), Handler).serve_forever()
"""
NAMES = ("learner", "inference", "gateway")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    data = tmp_path / "data"
    data.mkdir()
    return free_settings(Settings(data=data))


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A folder whose package `services` stands in for the real one in the children."""
    package = tmp_path / "stand-ins" / "services"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name in NAMES:
        (package / f"{name}.py").write_text(SERVICE.format(name=name))
    return package


def loop_of(settings: Settings, stand_ins: Path, **environment: str) -> Loop:
    return Loop(settings, environment={"PYTHONPATH": str(stand_ins.parent), **environment})


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(claim: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_children_lead_process_groups_of_their_own_and_end_from_the_edge_inwards(settings: Settings, stand_ins: Path) -> None:
    loop = loop_of(settings, stand_ins)
    loop.start()
    pids = [process.pid for process in loop.processes.values()]
    assert [os.getpgid(pid) for pid in pids] == pids
    loop.stop()
    assert (settings.data / "stopped").read_text().split() == ["gateway", "inference", "learner"]
    assert all(gone(pid) for pid in pids)


def test_children_read_the_settings_of_their_parent(settings: Settings, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVELOOP_QUEUE_LIMIT", "5")
    settings = settings.model_copy(update={"queue_limit": 7, "scope": "all"})
    with loop_of(settings, stand_ins, EXTRA="yes"):
        environment = json.loads((settings.data / "learner.json").read_text())
    assert environment["EXTRA"] == "yes"
    assert environment["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setattr(os, "environ", environment)
    assert Settings() == settings


def test_a_child_that_ends_at_its_start_is_named_by_its_own_sentence_and_takes_the_others_with_it(
    settings: Settings, stand_ins: Path
) -> None:
    (stand_ins / "inference.py").write_text(
        "import sys; print('noise'); sys.stderr.write('liveloop inference: no keys in keys/\\nmore noise\\n'); sys.exit(2)"
    )
    loop = loop_of(settings, stand_ins)
    with pytest.raises(Misconfigured, match=r"^no keys in keys/$"):
        loop.start()
    assert all(process.poll() is not None for process in loop.processes.values())


def test_a_crash_at_the_start_points_to_the_log_and_shows_no_traceback(settings: Settings, stand_ins: Path) -> None:
    (stand_ins / "learner.py").write_text("raise RuntimeError('broken')")
    loop = loop_of(settings, stand_ins)
    with pytest.raises(Misconfigured) as caught:
        loop.start()
    assert caught.value.reason == f"the learner ended with exit code 1; see {loop.log('learner')}"
    assert "RuntimeError: broken" in loop.log("learner").read_text()


def test_a_child_that_never_gets_ready_is_named(settings: Settings, stand_ins: Path) -> None:
    (stand_ins / "gateway.py").write_text("import time; time.sleep(600)")
    loop = loop_of(settings, stand_ins)
    with pytest.raises(Misconfigured, match="the gateway was not ready in 3 s"):
        loop.start(timeout=3)
    assert all(process.poll() is not None for process in loop.processes.values())


def test_a_port_that_is_taken_is_named_before_anything_starts(settings: Settings, stand_ins: Path) -> None:
    with loop_of(settings, stand_ins):
        second = loop_of(settings, stand_ins)
        with pytest.raises(Misconfigured, match=r"127\.0\.0\.1:\d+ is already in use"):
            second.start()
        assert second.processes == {}


def test_a_killed_child_can_be_started_again_while_the_others_go_on(settings: Settings, stand_ins: Path) -> None:
    with loop_of(settings, stand_ins) as loop:
        before = {name: process.pid for name, process in loop.processes.items()}
        loop.kill("learner")
        assert "was ended by signal 9" in loop.failure("learner")
        loop.restart("learner")
        after = {name: process.pid for name, process in loop.processes.items()}
        assert after["learner"] != before["learner"]
        assert after["gateway"] == before["gateway"]
        assert all(process.poll() is None for process in loop.processes.values())


def test_a_child_that_ignores_being_asked_is_killed(settings: Settings, stand_ins: Path) -> None:
    deaf = SERVICE.format(name="inference").replace("signal.SIGTERM, stop", "signal.SIGTERM, signal.SIG_IGN")
    (stand_ins / "inference.py").write_text(deaf)
    loop = loop_of(settings, stand_ins)
    loop.start()
    loop.stop(grace=1)
    assert loop.processes["inference"].returncode == -signal.SIGKILL


def test_no_child_outlives_a_parent_that_was_killed(settings: Settings, stand_ins: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\nfrom liveloop.settings import Settings\nfrom services.commands.processes import Loop\n"
        f"sys.path.insert(0, '')\nsettings = Settings.model_validate_json(sys.argv[1])\n"
        f"loop = Loop(settings, environment={{'PYTHONPATH': {str(stand_ins.parent)!r}}})\nloop.start()\n"
        "print(*[p.pid for p in loop.processes.values()], flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, script, settings.model_dump_json()], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == len(NAMES)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: all(gone(pid) for pid in pids))


def test_free_ports_are_six_different_ones(settings: Settings) -> None:
    listeners = [value for name, value in settings.model_dump().items() if name.endswith("_listen")]
    assert len(set(listeners)) == 6


def test_a_service_that_keeps_dying_is_started_again_a_few_times_and_then_named(
    settings: Settings, stand_ins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.commands.up._FIRST_WAIT", 0.01)
    said = io.StringIO()
    with loop_of(settings, stand_ins) as loop:
        (stand_ins / "inference.py").write_text("import sys; sys.exit(1)")
        loop.kill("inference")
        with pytest.raises(Misconfigured, match="the inference ended with exit code 1"):
            supervise(loop, Console(file=said))
        assert loop.processes["learner"].poll() is None
    assert said.getvalue().count("Starting it again") == 4
    assert "was ended by signal 9" in said.getvalue()


def test_a_service_that_is_misconfigured_is_not_started_again(settings: Settings, stand_ins: Path) -> None:
    with loop_of(settings, stand_ins) as loop:
        (stand_ins / "inference.py").write_text("import sys; sys.stderr.write('liveloop inference: no keys\\n'); sys.exit(2)")
        loop.kill("inference")
        loop.launch("inference")
        with pytest.raises(Misconfigured, match=r"^no keys$"):
            supervise(loop, Console(quiet=True))


def test_the_learners_trouble_never_stops_serving(settings: Settings, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.commands.up._LONGEST_WAIT", 0.01)
    said: list[str] = []

    class Reader(Console):
        def print(self, text: str, **_: object) -> None:  # type: ignore[override]
            said.append(text)
            if len(said) > _QUICK_DEATHS:
                raise KeyboardInterrupt

    with loop_of(settings, stand_ins) as loop:
        (stand_ins / "learner.py").write_text("import sys; sys.stderr.write('liveloop learner: the disk is full\\n'); sys.exit(2)")
        loop.kill("learner")
        loop.launch("learner")
        with pytest.raises(KeyboardInterrupt):
            supervise(loop, Reader())
        assert all(line.startswith("the disk is full. Starting it again") for line in said)
        assert loop.processes["inference"].poll() is None
