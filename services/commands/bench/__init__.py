"""`liveloop bench`: what is fast, how fast it is, and beside what. Each command imports what it needs when it runs.

loop.py       a whole loop from outside: freshness, latency, throughput
weights.py    patches, publish to flip, and a full push beside them
swap.py       what updates cost those who wait for answers
events.py     from an outbox to Kafka and from Kafka into the journal; plain_kafka.py: kafka-python beside it
learning.py   how well the loop learns: which runs; learning_run.py: one of them; learning_table.py: what they come to
subjects.py   what is learnt: real texts and what real people said of them
poison.py     what people who mean harm can do: which runs; poison_run.py: one of them; poison_table.py: what they come to
finished.py   runs that are finished, so that a bench that was stopped goes on
closed_loop.py the learner's own loop in one process, with simulated people
recorded.py   recorded steps: real optimiser steps of the demo's model, as the versions that are served
patches.py    one recording's patches: bytes and milliseconds, beside the baselines
delivery.py   from a publish to the flip of one pod or of many
full_push.py  the whole model through a store, as most systems do it
beside.py     what a saturated relay costs those who wait for answers
replay.py     publishes recorded versions again and again, at a rate
load.py       a process that asks at random times, whether or not earlier answers came
pod.py        a process that holds and follows a version and serves nobody
worker.py     child processes that are told what to do line by line
server.py     a Redis or Valkey server for the length of a measurement
tables.py     progress, and tables of figures, their ratios and their targets
"""

from __future__ import annotations

from typing import Annotated

import typer

EventsUrl = Annotated[str | None, typer.Option(help="As for `liveloop up`.")]
WeightsUrl = Annotated[str | None, typer.Option(help="redis://HOST:PORT; without it a server is started where one is installed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


def bench_app() -> typer.Typer:
    """The group of commands."""
    app = typer.Typer(help="Measure a loop, its weights in motion, and what they cost.", no_args_is_help=True)
    app.command("loop")(_loop)
    app.command("weights")(_weights)
    app.command("swap")(_swap)
    app.command("events")(_events)
    app.command("learning")(_learning)
    app.command("poison")(_poison)
    return app


def _loop(
    *,
    seconds: Annotated[float, typer.Option(min=5.0, help="Length of each of the two stretches, without and with updates.")] = 30.0,
    rate: Annotated[float, typer.Option(min=1.0, help="Predictions per second.")] = 20.0,
    thumbs: Annotated[float, typer.Option(min=0.05, help="Thumbs per second in the second stretch.")] = 1.0,
    attach: Annotated[
        bool, typer.Option(help="Measure the loop that runs with these settings; its model learns the bench's thumbs.")
    ] = False,
    as_json: AsJson = False,
    events_url: EventsUrl = None,
    weights_url: Annotated[str | None, typer.Option(help="As for `liveloop up`.")] = None,
) -> None:
    """Freshness, latency with and without updates, and throughput, of a loop started for it."""
    from rich.console import Console

    from liveloop.settings import load_settings
    from services.commands.bench.loop import bench_loop

    settings = load_settings(events_url=events_url, weights_url=weights_url)
    console = Console(stderr=as_json)
    bench_loop(settings, seconds=seconds, rate=rate, thumbs=thumbs, attach=attach, as_json=as_json, console=console)


def _weights(
    *,
    steps: Annotated[int, typer.Option(min=2, help="Optimiser steps of each recording; the last five are measured.")] = 20,
    weights_url: WeightsUrl = None,
    as_json: AsJson = False,
) -> None:
    """Bytes and milliseconds of a version: patches beside their baselines, and from a publish to the flip of 1 and 8 pods."""
    from rich.console import Console

    from liveloop.settings import load_settings
    from services.commands.bench.weights import Extent, bench_weights

    bench_weights(load_settings(), Extent(steps=steps), weights_url=weights_url, as_json=as_json, console=Console(stderr=as_json))


def _swap(
    *,
    seconds: Annotated[
        float, typer.Option(min=6.0, help="Length of all stretches of a kind: without, with updates, with them elsewhere.")
    ] = 60.0,
    rate: Annotated[float, typer.Option(min=0.1, help="Versions per second.")] = 5.0,
    weights_url: Annotated[str | None, typer.Option(help="redis://HOST:PORT; a folder by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """What updates cost those who wait for answers: p99 under open-loop load without and with recorded versions arriving."""
    from rich.console import Console

    from liveloop.settings import load_settings
    from services.commands.bench.swap import Extent, bench_swap

    extent = Extent(seconds=seconds, versions_per_second=rate)
    bench_swap(load_settings(), extent, weights_url=weights_url, as_json=as_json, console=Console(stderr=as_json))


def _events(
    *,
    kafka: Annotated[str | None, typer.Option(help="HOST:PORT of a broker that asks for no password and no TLS.")] = None,
    events: Annotated[int, typer.Option(min=1000, help="Events that each side moves in a round.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; of each side the best one counts.")] = 3,
    predict_seconds: Annotated[float, typer.Option(min=0.0, help="Seconds of predictions beside a saturated relay; 0: none.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Events per second through the relay and the join, beside plain kafka-python, and what a saturated relay costs predictions."""
    from rich.console import Console

    from liveloop.settings import load_settings
    from services.commands.bench.events import Extent, bench_events

    extent = Extent(events=events, rounds=rounds, predict_seconds=predict_seconds)
    bench_events(load_settings(), extent, kafka=kafka, as_json=as_json, console=Console(stderr=as_json))


def _learning(
    *,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each kind; the table has their means.")] = 1,
    line: Annotated[str, typer.Option(help="One line of the table, whole: movie, tri, news or drift.")] = "",
    full: Annotated[bool, typer.Option("--full", help="Every line, and K = 2 with every objective and scope: hours.")] = False,
    as_json: AsJson = False,
) -> None:
    """What thumbs teach beside true labels, on real raters, through the product's own loop; finished runs are kept, so it goes on."""
    from rich.console import Console

    from liveloop.settings import load_settings
    from services.commands.bench.learning import bench_learning

    bench_learning(load_settings(), seeds=seeds, full=full, line=line, as_json=as_json, console=Console(stderr=as_json))


def _poison(
    *,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each kind; the table has their means.")] = 1,
    judgements: Annotated[int, typer.Option(min=8, help="Judgements in a run, attackers' included.")] = 2000,
    scenario: Annotated[
        str, typer.Option(help="One attack: clean, flips-5, flips-10, push-10, push-20, push-40, trigger or burst-30.")
    ] = "",
    defence: Annotated[str, typer.Option(help="One defence: none, cap, trust, burst, guard or default.")] = "",
    as_json: AsJson = False,
) -> None:
    """What people who mean harm can do to the model, with each defence and without; finished runs are kept, so it goes on."""
    from rich.console import Console

    from liveloop.settings import load_settings
    from services.commands.bench.poison import Extent, bench_poison

    extent = Extent(seeds=seeds, judgements=judgements, attack=scenario, defence=defence)
    bench_poison(load_settings(), extent, as_json=as_json, console=Console(stderr=as_json))
