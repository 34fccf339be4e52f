"""Loops of real processes with the real demo model: one that all tests of a session share, and new ones for tests that break things;
and a real Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console

from liveloop.settings import Settings
from services.commands.assets import demo_assets
from services.commands.processes import free_settings
from services.commands.raters import read_study
from tests.e2e.running import LIVELOOP, STARTED, Running

CHROMIUM_FLAGS = [
    "--no-sandbox",  # the tests may run as root in a container, where Chromium cannot have one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class NewLoop(Protocol):
    """Starts a loop on a copy of the initialised data folder; it is stopped after the test."""

    def __call__(self, *, events: str = "", weights: str = "", start: bool = True, **settings: object) -> Running: ...


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the services wrote under a test that failed."""
    report = yield
    if report.failed:
        for running in STARTED:
            report.sections.extend((f"log of the {service} in {running.settings.data}", text) for service, text in running.logs().items())
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a session also fetches the demo's model and warm-starts it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder initialised with the first three layers of the demo's model, trained on its tweets; only ever copied."""
    folder = tmp_path_factory.mktemp("template")
    assets = demo_assets(Settings().cache, Console())
    shutil.copytree(assets.model, folder / "model")
    config = json.loads((assets.model / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    study = read_study(assets.study)
    files: list[str | Path] = []
    for name, texts in (("task", study.tweets_train), ("validation", study.tweets_validation), ("test", study.tweets_test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text.text, "label": text.label}) + "\n" for text in texts))
        files += [f"--{name}-data", folder / f"{name}.jsonl"]
    command = [LIVELOOP, "init", "--data", folder / "data", "--model", folder / "model", "--epochs", "5", "--max-tokens", "64", *files]
    subprocess.run(command, check=True)
    return folder / "data"


@pytest.fixture(scope="session")
def loop(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An embedded loop that runs for the whole session: tests leave it running."""
    data = tmp_path_factory.mktemp("loop") / "data"
    shutil.copytree(template, data)
    running = Running(free_settings(Settings(data=data)))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def new_loop(template: Path, tmp_path: Path) -> Iterator[NewLoop]:
    """Makes loops of this test's own."""
    made: list[Running] = []

    def make(*, events: str = "", weights: str = "", start: bool = True, **settings: object) -> Running:
        data = tmp_path / f"data-{len(made)}"
        shutil.copytree(template, data)
        changes = {"data": data, "events_url": events, "weights_url": weights, **settings}
        made.append(Running(free_settings(Settings()).model_copy(update=changes)))
        if start:
            made[-1].start()
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert chromium, "there is no Chromium to show the page in: apt install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
