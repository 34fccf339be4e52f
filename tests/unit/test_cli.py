"""The command line against a fake loop that speaks the real contract over real gRPC."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from liveloop import cli, recent
from liveloop.errors import InvalidInput, NotFound, NotNow, Overloaded
from liveloop.settings import Settings
from liveloop.v1.inference_pb2 import Prediction
from services import commands
from tests.servers import free_port
from tests.unit.fake_services import FakeLoop, serve

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def loop() -> Iterator[FakeLoop]:
    with serve(FakeLoop()) as fake:
        yield fake


@pytest.fixture
def run(loop: FakeLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in an empty folder, against the fake, in a wide terminal."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("INFERENCE_TARGET", loop.target), ("LEARNER_TARGET", loop.target)):
        monkeypatch.setenv(f"LIVELOOP_{name}", value)
    monkeypatch.setenv("COLUMNS", "150")

    def run(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


def answer_id(run: Run) -> str:
    """Ask something; the id of the answer."""
    return re.findall(UUID, run("predict", "not bad").out)[0]


def test_predict_shows_label_score_version_and_id_of_every_text(run: Run):
    ended = run("predict", "not bad", "[bold]awful[/bold]")
    assert ended.code == 0
    lines = [line for line in ended.out.splitlines() if re.search(UUID, line)]
    assert len(lines) == 2
    assert all(part in lines[0] for part in ("negative", "0.71", "40", "not bad"))
    assert "[bold]awful[/bold]" in lines[1]


def test_predict_says_on_which_answers_a_judgement_is_wanted(run: Run, loop: FakeLoop):
    assert "Was this right?" not in run("predict", "not bad").out
    loop.wanted = True
    ended = run("predict", "not bad", "awful")
    first, second, *asked = re.findall(UUID, ended.out)
    assert asked == [first, second]
    assert re.findall(r"liveloop feedback send \S+ up", ended.out) == [f"liveloop feedback send {one} up" for one in asked]


def test_an_answer_is_judged_by_the_beginning_of_its_id_and_then_followed_and_taken_back(run: Run, loop: FakeLoop):
    whole = answer_id(run)
    sent = run("feedback", "send", whole[:12], "down")
    assert (sent.code, "accepted" in sent.out) == (0, True)
    feedback_id = next(found for found in re.findall(UUID, sent.out) if found != whole)
    assert loop.requests[-1].feedback[0].WhichOneof("signal") == "thumb"
    followed = run("feedback", "status", whole[:12], feedback_id)
    assert followed.code == 0
    assert re.search(r"state\s+(joined|trained|served)", followed.out)
    assert run("feedback", "retract", whole[:12]).code == 0
    assert "retracted" in run("feedback", "status", whole).out


def test_what_the_learner_has_not_read_yet_is_pending_where_it_was_sent(run: Run, loop: FakeLoop, tmp_path: Path):
    whole, other = answer_id(run), answer_id(run)
    loop.hold = True
    sent = run("feedback", "send", whole, "up")
    feedback_id = next(found for found in re.findall(UUID, sent.out) if found != whole)
    for given in ([whole[:12]], [whole, feedback_id]):
        ended = run("feedback", "status", *given)
        assert (ended.code, ended.err) == (0, "")
        assert re.search(rf"state\s+pending\s+feedback id\s+{feedback_id}", ended.out)
    for given in ([other], [whole, other], [whole, "--data", str(tmp_path / "elsewhere")]):
        assert run("feedback", "status", *given).code == 2


def test_a_summary_shows_the_commonest_first_and_what_each_is(run: Run):
    said = run("feedback", "summary")
    assert said.code == 0
    counted, live = said.out.split("\n\n")
    assert [line.strip().split(maxsplit=2) for line in counted.splitlines()[1:]] == [
        ["state", "1234", "served"],
        ["state", "2", "expired"],
        ["reason", "7", "too long"],
    ]
    assert re.search(r"all +83\.0 \(80\.5 to 85\.0\) +1000 +70", live)
    assert re.search(r"held out.* 4\.1 \(-0\.5 to 9\.0\)", live)


def test_a_refused_judgement_names_its_field(run: Run):
    assert "correction.label: " in run("feedback", "send", answer_id(run), "--correct", "purple").err


@pytest.mark.parametrize(
    ("given", "signal"), [(["up"], "thumb"), (["--correct", "positive"], "correction"), (["--rating", "0.25"], "rating")]
)
def test_every_kind_of_judgement_can_be_sent(run: Run, loop: FakeLoop, given: list[str], signal: str):
    assert run("feedback", "send", answer_id(run), *given).code == 0
    assert loop.requests[-1].feedback[0].WhichOneof("signal") == signal


@pytest.mark.parametrize("given", [[], ["sideways"], ["up", "--rating", "1"], ["--correct", "positive", "--rating", "1"]])
def test_no_judgement_or_two_are_a_usage_error(run: Run, loop: FakeLoop, given: list[str]):
    assert run("feedback", "send", answer_id(run), *given).code == 2
    assert loop.judged == {}


def test_versions_are_listed_with_where_they_stand_and_how_they_did(run: Run):
    ended = run("versions")
    newest, before = ended.out.splitlines()[1:3]
    assert (ended.code, "40 *" in newest, "rolled back" in newest, "train" in newest) == (0, True, True, True)
    assert all(part in before for part in ("39 +", "blessed", "settle", "8.59 GB", "75.0", "50.0"))
    assert len(run("versions", "--limit", "1").out.splitlines()) == 3


def test_a_version_is_shown_with_its_feedback_and_what_was_decided(run: Run, loop: FakeLoop):
    shown = run("versions", "show", str(loop.version)).out
    assert re.search(r"new feedback +1 kept, 1 erased", shown) and re.search(r"task rows +3, 5", shown)
    assert re.search(r"promote +ann +users like it", shown) and re.search(r"served +up +p/f", shown)
    missing = run("versions", "show", "999")
    assert missing.code == 2 and missing.err == "liveloop: there is no version 999\n"


def test_forgetting_says_what_was_erased_and_when_the_last_copies_lapse(run: Run):
    said = run("forget", "--user", "ann").out
    assert re.search(r"erased +3 predictions, 2 feedbacks", said) and re.search(r"had taught +7, 9", said)
    assert re.search(r"copies lapse +by 2023-11-1\d", said) and "rebuilt" not in said
    assert re.search(r"rebuilt +version 12", run("forget", "--session", "s", "--rebuild").out)
    assert run("forget").code == run("forget", "--user", "ann", "--session", "s").code == 2


def test_versions_fit_a_terminal_of_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("versions").out.splitlines()
    assert len(lines) == 4 and max(len(line) for line in lines) <= 80
    assert "rolled back" in lines[1] and "0.91 MB" in lines[1]
    assert lines[0].split()[-2:] == ["task", "feedback"] and lines[2].split()[-2:] == ["75.0", "50.0"]


@pytest.mark.parametrize(
    ("order", "request_name", "said"),
    [
        (["promote", "39"], "PromoteRequest", "version 39 is blessed"),
        (["rollback", "32"], "RollbackRequest", "version 41 has the weights of 32; 12 feedbacks are set aside"),
        (["pin", "39"], "PinRequest", "version 39 is kept"),
        (["unpin", "39"], "UnpinRequest", "version 39 goes"),
        (["pause"], "PauseRequest", "training is paused"),
        (["resume"], "ResumeRequest", "training goes on"),
        (["quarantine", "release", "--all"], "ReleaseQuarantineRequest", "3 feedbacks are released"),
        (["quarantine", "release", "p/f"], "ReleaseQuarantineRequest", "1 feedback is released"),
        (["quarantine", "drop", "p/f", "p/g"], "DropQuarantineRequest", "none of that is in quarantine"),
    ],
)
def test_an_order_says_who_and_why_and_answers_in_one_line(
    run: Run, loop: FakeLoop, monkeypatch: pytest.MonkeyPatch, order: list[str], request_name: str, said: str
):
    monkeypatch.setenv("LOGNAME", "ann")
    ended = run(*order, "--why", "because")
    sent = loop.requests[-1]
    assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 1)
    assert said in ended.out
    assert (type(sent).__name__, sent.who, sent.why) == (request_name, "ann", "because")
    run(*order, "--who", "bob")
    assert (loop.requests[-1].who, loop.requests[-1].why) == ("bob", "")


def test_what_is_released_or_dropped_is_named_or_all_of_it(run: Run, loop: FakeLoop):
    run("quarantine", "drop", "p/f", "q/g")
    assert [(one.prediction_id, one.feedback_id) for one in loop.requests[-1].feedback] == [("p", "f"), ("q", "g")]
    before = len(loop.requests)
    for given in ([], ["p/f", "--all"], ["p"], ["/f"]):
        assert run("quarantine", "release", *given).code == 2
    assert len(loop.requests) == before


def test_the_quarantine_is_listed_as_release_and_drop_take_it(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "60")
    ended = run("quarantine", "list")
    lines = ended.out.splitlines()
    assert lines[0] == f"{'p' * 36}/{'f' * 36}"
    assert "down" in lines[1] and "learnt in step 7: [it] was undone" in lines[1]
    assert lines[2] == "3 in quarantine, 1 shown"


def test_an_order_that_is_refused_is_one_sentence(run: Run, loop: FakeLoop):
    loop.fail_next = [NotNow("version 3 is not kept any more")]
    assert run("rollback", "3") == Ended(2, "", "liveloop: version 3 is not kept any more\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", ""],
        ["feedback", "send", "0000", "up"],
        ["feedback", "send", "WHOLE", "--correct", "purple"],
        ["feedback", "status", "0000"],
        ["feedback", "status", "00000000-0000-0000-0000-000000000000"],
    ],
)
def test_what_is_refused_is_one_sentence_and_exit_code_2(run: Run, arguments: list[str]):
    whole = answer_id(run)
    ended = run(*(whole if one == "WHOLE" else one for one in arguments))
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(r"liveloop: [^\n]+\n", ended.err)


def test_a_loop_that_is_away_or_full_is_one_sentence_too(run: Run, loop: FakeLoop):
    loop.fail_next = [Overloaded("the queue is full", retry_after=60)]
    assert run("predict", "x") == Ended(2, "", "liveloop: the queue is full\n")
    away = run("versions", "--learner-port", "1")
    assert away.code == 2
    assert "`liveloop up` starts it" in away.err
    assert "Traceback" not in away.err


def test_addresses_come_from_the_command_line_then_the_environment_then_the_file(
    run: Run, loop: FakeLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert run("predict", "x", "--grpc-port", "1").code == 2
    monkeypatch.delenv("LIVELOOP_INFERENCE_TARGET")
    (tmp_path / "liveloop.toml").write_text(f'inference_listen = "{loop.target}"\ndata = "elsewhere"\n')
    assert run("predict", "x").code == 0
    assert (tmp_path / "elsewhere" / "tokens.db").is_file()
    monkeypatch.setenv("LIVELOOP_INFERENCE_LISTEN", "127.0.0.1:1")
    assert run("predict", "x").code == 2
    assert run("predict", "x", "--grpc-port", loop.target.rpartition(":")[2]).code == 0
    (tmp_path / "liveloop.toml").write_text("= broken")
    ended = run("predict", "x")
    assert (ended.code, "liveloop.toml cannot be read" in ended.err) == (2, True)


def test_the_last_thousand_answers_are_kept_where_their_owner_alone_can_read_them(tmp_path: Path):
    def prediction(number: int) -> Prediction:
        return Prediction(prediction_id=f"{number:032d}", feedback_token=f"token {number}")

    recent.keep(tmp_path / "data", [prediction(number) for number in range(600)])
    recent.keep(tmp_path / "data", [prediction(number) for number in range(600, 1100)])
    with pytest.raises(NotFound):
        recent.find(tmp_path / "data", prediction(99).prediction_id)
    for number in (100, 1099):
        assert recent.find(tmp_path / "data", prediction(number).prediction_id) == prediction(number)
    with pytest.raises(InvalidInput):
        recent.find(tmp_path / "data", "0000")
    assert stat.S_IMODE((tmp_path / "data" / "tokens.db").stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_used_is_one_sentence(run: Run, tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        ended = run("predict", "x", "--data", str(folder))
        assert (ended.code, "--data" in ended.err) == (2, True)
        assert re.search(UUID, ended.out), "the answer was got, and is shown"
    (tmp_path / "liveloop-data").mkdir()
    (tmp_path / "liveloop-data" / "tokens.db").write_text("not a database " * 100)
    assert run("feedback", "send", "0", "up").code == 2


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(loop: FakeLoop, tmp_path: Path):
    loop.answering.clear()
    command = [sys.executable, "-c", "from liveloop.cli import main; main()", "predict", "x"]
    environment = os.environ | {"LIVELOOP_INFERENCE_TARGET": loop.target}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert loop.asked.wait(60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    loop.answering.set()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_help_loads_neither_grpc_nor_pydantic_nor_torch():
    code = """
import sys
from liveloop.cli import main
try:
    main(["--help"])
except SystemExit as ended:
    assert ended.code == 0
assert not {"grpc", "google.protobuf", "pydantic", "torch", "numpy", "fastapi"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command in done.stdout for command in ("predict", "feedback", "versions", "rollback", "quarantine", "up"))


def test_without_the_services_their_commands_say_where_they_run(tmp_path: Path):
    package = tmp_path / "liveloop"
    package.mkdir()
    here = Path(cli.__file__).parent
    for name in ("__init__.py", "addresses.py", "cli.py", "errors.py", "learning.py", "mishaps.py", "orders.py"):
        (package / name).write_text((here / name).read_text())
    command = [sys.executable, "-c", "from liveloop.cli import main; main()"]
    for name in ("up", "init", "demo", "bench"):
        done = subprocess.run([*command, name, "--anything", "else"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert re.fullmatch(r"liveloop: `liveloop \w+` runs from a clone or the image; [^\n]+\n", done.stderr)


@pytest.mark.parametrize(("options", "environment", "expected"), [([], "", False), (["--take-over"], "", True), ([], "true", True)])
def test_up_takes_over_another_models_head_only_when_told_to(
    options: list[str], environment: str, *, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("services.commands.up.up", lambda settings, _console: seen.append(settings))
    if environment:
        monkeypatch.setenv("LIVELOOP_TAKE_OVER", environment)
    app = typer.Typer()
    commands.register(app)
    app(["up", *options], standalone_mode=False)
    assert [settings.take_over for settings in seen] == [expected]


def test_a_file_of_rows_is_handed_in_once_and_the_first_refusals_are_told_by_line(run: Run, loop: FakeLoop, tmp_path: Path):
    (tmp_path / "rows.csv").write_text('text,label,note\n"two\nlines",positive,x\nfine,glorious,y\n' + "so so,neutral,z\n" * 300)
    ended = run("learn", "rows.csv")
    assert (ended.code, ended.err) == (1, "")
    assert all(
        re.search(said, ended.out) for said in (r"accepted\s+2\b", r"known already\s+299\b", r"refused\s+1\b", "line 4: label: .*glorious")
    )
    assert len(loop.rows) == 2
    sent = [len(request.examples) for request in loop.requests]
    (tmp_path / "rows.csv").write_text("text,label\nso so,neutral\n")
    assert sent == [256, 46]
    again = run("learn", "rows.csv", "--source", "implicit")
    assert (again.code, "accepted" in again.out) == (0, True)


def test_what_became_of_a_labelled_row_is_asked_by_its_id(run: Run, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "positive", "id": "row-1"}\n')
    assert run("learn", "rows.jsonl").code == 0
    assert all("joined" in run("feedback", "status", name).out for name in ("row-1", "example:row-1"))
    assert run("feedback", "status", "row-2").code == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,lable\na,b\n", "no column label"),
        ("a.csv", "", "no column text"),
        ("a.csv", "text,label\na,positive\n,positive\n", "line 3: text is missing"),
        ("a.csv", 'text,label\na,positive\n"open,positive\n', "line 3"),
        ("a.tsv", "text\tlabel\ttime\na\tpositive\tyesterday\n", "line 2: 'yesterday' is not a time"),
        ("a.tsv", "text\tlabel\ttime\na\tpositive\t0001-01-01T00:00:00+14:00\n", "line 2: '0001-01-01T00:00:00+14:00' is not a time"),
        ("a.jsonl", '{"text": "a", "label": "b"}\nnonsense\n', "line 2: not JSON"),
        ("a.jsonl", '{"text": "a", "label": "b", "user": "\\ud800"}\n', "line 1: user holds half of a surrogate pair"),
        ("a.jsonl", "\n[1]\n", "line 2: not a JSON object"),
        ("a.jsonl", '{"text": 5, "label": "b"}\n', "line 1: text is not a string"),
        ("a.txt", "a\n", ".csv, .tsv, .jsonl or .parquet"),
        ("a.csv", None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line_before_anything_is_sent(
    run: Run, loop: FakeLoop, tmp_path: Path, name: str, content: str | None, said: str
):
    if content is not None:
        (tmp_path / name).write_text(content)
    ended = run("learn", name)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert loop.requests == []


def test_the_key_in_the_named_file_is_presented_and_a_backend_judges_any_answer(
    run: Run, loop: FakeLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LIVELOOP_KEY_FILE", str(tmp_path / "key"))
    assert "the API key in" in run("predict", "x").err
    (tmp_path / "key").write_text("secret\n")
    elsewhere = "0190b5a2-7d4e-7a31-9d5c-0123456789ab"
    loop.trusted = "Bearer secret"
    assert run("feedback", "send", elsewhere, "up", "--source", "expert", "--user", "ann").code == 0
    sent = loop.requests[-1].feedback[0]
    assert (sent.prediction_id, sent.user, sent.source, loop.keys) == (elsewhere, "ann", 2, ["Bearer secret"])


def test_a_loop_that_goes_away_and_a_ctrl_c_say_how_far_a_file_has_come(
    run: Run, loop: FakeLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "".join(f"text {number}\tpositive\n" for number in range(300)))
    take = loop._take

    def away(row: object) -> object:
        if len(loop.rows) == 256:
            raise RuntimeError("gone")
        return take(row)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_take", away)
        ended = run("learn", "rows.tsv")
    assert ended.code == 2
    assert re.search(r"accepted\s+256", ended.out)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("liveloop.client.Client.learn", interrupted)
        stopped = run("learn", "rows.tsv")
    assert (stopped.code, "run it again" in stopped.err) == (130, True)
    assert re.search(r"known already\s+256", run("learn", "rows.tsv").out)


@pytest.mark.parametrize(
    "command",
    ["predict hi", "feedback status example:ID", "feedback summary", "versions", "versions show 3", "dead-letters list", "quarantine list"],
)
def test_a_loop_that_does_not_run_is_one_clear_sentence(run: Run, monkeypatch: pytest.MonkeyPatch, command: str):
    nobody = f"127.0.0.1:{free_port()}"
    for service in ("INFERENCE", "LEARNER"):
        monkeypatch.setenv(f"LIVELOOP_{service}_TARGET", nobody)
    sentence = f"liveloop: nothing listens at {nobody}; is the loop running? `liveloop up` starts it\n"
    assert run(*command.split()) == (2, "", sentence)


def test_keys_are_listed_though_no_loop_runs(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LIVELOOP_INFERENCE_TARGET", f"127.0.0.1:{free_port()}")
    assert run("keys", "list") == (0, "there are no API keys: everybody on this machine may call, nobody else\n", "")
