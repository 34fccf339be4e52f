"""The benchmarks measure real pods on real stores, say what was promised, and leave nothing running."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from liveloop.settings import load_settings
from services.commands.bench import swap, weights
from services.commands.bench.tables import print_swap, print_weights
from tests.bench_source import tiny_source
from tests.e2e.running import wait_for


def test_bench_weights_measures_both_stores_and_names_every_figure_that_was_promised():
    extent = weights.Extent(steps=3, learning_rates=(1e-3,), scopes=("no-embeddings", "head"), pods=(1, 2), versions=3)
    found = weights.measure(tiny_source(), load_settings(), extent, weights_url=None, console=Console(file=io.StringIO()))
    assert [(row["lr"], row["scope"]) for row in found["patches"]] == [(1e-3, "no-embeddings"), (1e-3, "head")]
    assert set(found["stores"]) == {"directory", "redis"}
    for figures in (found, *found["stores"].values()):
        assert figures["publish_to_flip_ms"].keys() == figures["full_push_ms"].keys() == {"1", "2"}
        assert min(*figures["publish_to_flip_ms"].values(), *figures["full_push_ms"].values()) > 0
    said = io.StringIO()
    print_weights(found, Console(file=said, width=160))
    assert "head" in said.getvalue()
    assert "redis" in said.getvalue()


def test_bench_swap_loses_no_request_and_sees_only_published_versions():
    extent = swap.Extent(seconds=2.0, rounds=1, versions_per_second=3.0, steps=2, capacity_seconds=0.5)
    texts = ["the film is great", "a dull movie"]
    found = swap.measure(tiny_source(), texts, load_settings(), extent, weights_url=None, console=Console(file=io.StringIO()))
    assert found["p99_ms"].keys() == {"without", "with", "floor"}
    assert min(found["p99_ms"].values()) > 0
    assert (found["failed"], found["unknown_versions"], found["versions_per_second"]) == (0, 0, 3.0)
    assert found["ratio"] == round(found["p99_ms"]["with"] / found["p99_ms"]["without"], 3)
    said = io.StringIO()
    print_swap(found, Console(file=said, width=160))
    assert "floor" in said.getvalue()


def test_ctrl_c_ends_a_benchmark_with_all_that_it_started(tmp_path: Path):
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"  # a background shell's children ignore it
        " from rich.console import Console; from liveloop.settings import load_settings;"
        " from services.commands.bench import swap; from tests.bench_source import tiny_source;"
        " swap.measure(tiny_source(), ['good'], load_settings(), swap.Extent(seconds=600, steps=2), weights_url=None, console=Console())"
    )
    bench = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        children = wait_for(lambda: found if len(found := _children(bench.pid)) >= 3 else None, "the processes are started", 240)
        bench.send_signal(signal.SIGINT)
        bench.wait(60)
    finally:
        bench.kill()
        bench.wait()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "all children are gone", 10)
    assert list(tmp_path.iterdir()) == []


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
