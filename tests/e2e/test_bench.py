"""The benchmarks measure real pods on real stores, say what was promised, and leave nothing running."""

from __future__ import annotations

import io

from rich.console import Console

from liveloop.settings import load_settings
from services.commands.bench.tables import print_weights
from services.commands.bench.weights import Extent, measure
from tests.bench_source import tiny_source


def test_bench_weights_measures_both_stores_and_names_every_figure_that_was_promised():
    extent = Extent(steps=3, learning_rates=(1e-3,), scopes=("no-embeddings", "head"), pods=(1, 2), versions=3)
    found = measure(tiny_source(), load_settings(), extent, weights_url=None, console=Console(file=io.StringIO()))
    assert [(row["lr"], row["scope"]) for row in found["patches"]] == [(1e-3, "no-embeddings"), (1e-3, "head")]
    assert set(found["stores"]) == {"directory", "redis"}
    for figures in (found, *found["stores"].values()):
        assert figures["publish_to_flip_ms"].keys() == figures["full_push_ms"].keys() == {"1", "2"}
        assert min(*figures["publish_to_flip_ms"].values(), *figures["full_push_ms"].values()) > 0
    said = io.StringIO()
    print_weights(found, Console(file=said, width=160))
    assert "head" in said.getvalue()
    assert "redis" in said.getvalue()
