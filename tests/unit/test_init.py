"""`liveloop init`, as it is typed: what it makes, what it says, and what it refuses with one sentence and exit code 2."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from rich.console import Console

from liveloop import cli, keys
from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from liveloop.tasks.flat import narrow, widen
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.publisher import Publisher
from services.commands import demo_model, raters, training
from services.commands.assets import Assets
from services.commands.demo_model import prepare_demo
from services.learner.pretrained import Wanted, load_pretrained
from services.learner.task_data import Row
from services.learner.warm_start import evaluate
from tests.unit.test_warm_start import reviews, save_checkpoint


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `liveloop init --data data` in an empty folder, in a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LIVELOOP_LEARNER_THREADS", "1")

    def run(*arguments: str | Path) -> Ended:
        with pytest.raises(SystemExit) as ended:
            cli.main(["init", "--data", "data", *map(str, arguments)])
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


def _write_csv(path: Path, rows: list[Row], text: str = "text") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([(text, "label"), *((row.text, row.label) for row in rows)])
    return path


def _published(folder: Path) -> Publisher:
    settings = Settings(data=folder)
    return Publisher(DirectoryStore(folder / "weights"), keys.signing_key(settings), epoch=1)


def _task(folder: Path, part: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "task" / f"{part}.jsonl").read_text("utf-8").splitlines()]


def test_an_own_model_learns_own_data_and_becomes_version_1(run: Run, tmp_path: Path) -> None:
    rows = reviews(400)
    data = _write_csv(tmp_path / "rows.csv", rows)
    ended = run("--model", save_checkpoint(tmp_path / "model"), "--task-data", data, "--epochs", "1", "--max-tokens", "24")
    assert ended.code == 0
    for words in ("before", "after", "macro-F1", "recall of negative", "support", "MB in inference", "bf16"):
        assert words in ended.out
    publisher = _published(tmp_path / "data")
    assert (publisher.head.current, publisher.head.blessed) == (1, 1)
    assert publisher.bundle.max_tokens == 24
    parts = [_task(tmp_path / "data", part) for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [320, 40, 40]
    served, _ = evaluate(publisher.bundle, widen(publisher.state.bits), [Row(**row) for row in parts[2]])
    assert f"{100 * served.macro_f1:.1f} %" in ended.out


def test_adapters_alone_learn_own_data_where_the_scope_says_so(run: Run, tmp_path: Path) -> None:
    data, model = _write_csv(tmp_path / "rows.csv", reviews(100)), save_checkpoint(tmp_path / "model")
    assert run("--model", model, "--task-data", data, "--epochs", "1", "--scope", "lora-2").code == 0
    publisher, start = _published(tmp_path / "data"), load_pretrained(str(model), Wanted(scope="lora-2"))
    assert publisher.layout == start.bundle.layout
    changed = np.flatnonzero(publisher.state.bits != narrow(start.flat))
    assert len(changed) > 0
    assert changed[0] >= publisher.layout.frozen


def test_keys_are_readable_by_their_owner_alone(run: Run, tmp_path: Path) -> None:
    assert run("--model", save_checkpoint(tmp_path / "model"), "--epochs", "0").code == 0
    for path in (tmp_path / "data" / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_without_epochs_a_matching_head_is_served_to_the_bit(run: Run, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model")
    assert run("--model", folder, "--epochs", "0").code == 0
    assert np.array_equal(_published(tmp_path / "data").state.bits, narrow(load_pretrained(str(folder), Wanted()).flat))
    assert _task(tmp_path / "data", "train") == []


def test_a_folder_is_initialised_once(run: Run, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model")
    assert run("--model", folder, "--epochs", "0").code == 0
    before = _published(tmp_path / "data").state.digest
    ended = run("--model", folder, "--epochs", "0")
    assert ended.code == 2
    assert "is initialised already" in ended.err
    assert _published(tmp_path / "data").state.digest == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--labels", "a,b"], "--labels goes with an own model or own data"),
        (["--model", "model", "--epochs", "1"], "there is nothing to train on"),
        (["--model", "headless", "--labels", "a,b"], "has no classification head for a, b"),
        (["--model", "headless", "--task-data", "rows.csv", "--epochs", "0"], "has no classification head for negative, positive"),
        (["--model", "model", "--labels", "a,b", "--task-data", "rows.csv"], "has the labels negative, positive, which are not among a, b"),
        (["--model", "model", "--task-data", "rows.csv", "--label-column", "stars"], "has no column 'stars'; it has text, label"),
        (["--model", "model", "--task-data", "none.csv"], "none.csv cannot be read"),
        (["--model", "model", "--task-data", "same.csv"], "every row of the task data has the label positive"),
        (["--model", "model", "--task-data", "rows.csv", "--max-tokens", "1000"], "--max-tokens 1000 is not between"),
        (["--model", "bare", "--epochs", "0"], "has no tokenizer"),
        (
            ["--model", "model", "--epochs", "0", "--scope", "lora"],
            "the scope 'lora' is none of all, no-embeddings, last-N, head and lora-R",
        ),
        (["--model", "./nowhere", "--epochs", "0"], "is not a folder"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_leaves_no_version(run: Run, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    save_checkpoint(tmp_path / "model")
    save_checkpoint(tmp_path / "headless", head=False)
    save_checkpoint(tmp_path / "bare", tokenizer=False)
    _write_csv(tmp_path / "rows.csv", reviews(40))
    _write_csv(tmp_path / "same.csv", [row for row in reviews(40) if row.label == "positive"])
    ended = run(*arguments)
    assert ended.code == 2
    assert sentence in ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "data" / "weights").exists()


def test_a_data_folder_that_cannot_be_made_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    ended = run("--model", save_checkpoint(tmp_path / "model"), "--epochs", "0")
    assert ended.code == 2
    assert "cannot be written" in ended.err


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Publisher]:
    """Initialises a folder as the demo does, on the tiny model and a small study in its words; its version 1."""
    (tmp_path / "study").mkdir()
    for domain in ("tweets", "movieReviewSnippets"):
        rows = [(row.text, 2 if row.label == "positive" else -2) for row in reviews(100)]
        texts = [f"{number}\t{mean}\t{text}\n" for number, (text, mean) in enumerate(rows)]
        ratings = [f"{number}\t{mean}\t0.0\t[{mean}, {mean}]\n" for number, (_, mean) in enumerate(rows)]
        (tmp_path / "study" / f"{domain}_GroundTruth.txt").write_text("".join(texts))
        (tmp_path / "study" / f"{domain}_anonDataRatings.txt").write_text("".join(ratings))
    assets = Assets(save_checkpoint(tmp_path / "model", head=False), tmp_path / "study")
    monkeypatch.setattr(demo_model, "demo_assets", lambda _cache, _console: assets)
    monkeypatch.setattr(demo_model, "_MAX_TOKENS", 24)
    monkeypatch.setattr(demo_model, "_SECONDS", 1e9)
    for name, size in (("TRAIN", 60), ("VALIDATION", 20), ("TEST", 20)):
        monkeypatch.setattr(raters, f"_TWEETS_{name}", size)

    def demo(name: str) -> Publisher:
        prepare_demo(Settings(data=tmp_path / name, cache=tmp_path / "cache", learner_threads=1), Console(quiet=True))
        return _published(tmp_path / name)

    return demo


def test_the_demos_warm_start_is_done_once(demo: Callable[[str], Publisher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = demo("first")
    monkeypatch.setattr(training, "train_with_bar", None)
    second = demo("second")
    assert first.state.digest == second.state.digest
    assert first.bundle == second.bundle
    assert list(first.bundle.labels) == ["negative", "positive"]
    assert len(_task(tmp_path / "first", "train")) == 60


def test_a_damaged_warm_start_is_done_again(demo: Callable[[str], Publisher], tmp_path: Path) -> None:
    first = demo("first")
    (state,) = (tmp_path / "cache" / "warm-starts").glob("*/state.npy")
    state.write_bytes(state.read_bytes()[:1000])
    assert demo("second").state.digest == first.state.digest


def test_the_demo_refuses_a_folder_with_a_model_in_it(demo: Callable[[str], Publisher]) -> None:
    demo("first")
    with pytest.raises(Misconfigured, match="is initialised already"):
        demo("first")
