"""`liveloop objectives`: the menu of feedback losses, and what a model gets of it. Knows the terminal; trains nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from services.commands import Data

if TYPE_CHECKING:
    from liveloop.settings import Settings


def objectives(data: Data = None) -> None:
    """The losses that feedback can be learnt from by, when to use which, and the one that the model in --data gets."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from liveloop.settings import load_settings
    from liveloop.tasks.objectives import LOSSES

    settings = load_settings(data=data)
    table = Table("objective", "per judgement", "for", "needs", box=None, padding=(0, 2, 1, 0), header_style="dim")
    for name, loss in LOSSES.items():
        table.add_row(*(Text(cell) for cell in (name, loss.formula, loss.when, loss.needs)))
    Console().print(table)
    typer.echo("p: the model; p_ref: version 1; a: the judged label; r: +1 for an up, -1 for a down. A correction is always -log p(label).")
    typer.echo(_chosen(settings))


def _chosen(settings: Settings) -> str:
    """What the learner would do with the model in the data folder. Raises Misconfigured."""
    from liveloop import keys
    from liveloop.weights.directory import DirectoryStore
    from liveloop.weights.head import read_model
    from services.learner.recipes import choose_objective, learning_rate, scope_of

    if not (settings.data / "weights").is_dir():
        return f"There is no model in {settings.data}: auto is {choose_objective('auto', 2).loss}."
    bundle = read_model(DirectoryStore(settings.data / "weights"), keys.verify_key(settings)).bundle
    choice, rate = choose_objective(settings.objective, len(bundle.labels)), learning_rate(settings, bundle)
    nearness = f", kept near version 1 with kl_weight {settings.kl_weight:g}" if settings.kl_weight else ""
    return (
        f"The model in {settings.data} has {len(bundle.labels)} labels and learns by {choice.loss}: {choice.why}. "
        f"Of it {scope_of(bundle)} is trained, by {settings.optimizer} with a learning rate of {rate:g}{nearness}."
    )
