"""`liveloop reproduce`: proves a version from the journal, and says so plainly. Knows the terminal; the proof is the learner's."""

from __future__ import annotations

from typing import Annotated

import typer

from services.commands import Data


def reproduce(version: Annotated[int, typer.Argument(min=1, help="Its number, as in `liveloop versions`.")], data: Data = None) -> None:
    """Redo a version from the journal and compare: 0 equal, 1 unequal, 3 when examples it learnt from were erased since."""
    import torch
    from rich.progress import Progress

    from liveloop.settings import load_settings
    from services.learner.materials import choose_device, load_materials
    from services.learner.micro_batch import MicroBatches
    from services.learner.reproduce import KeptVersions, ReadJournal, other_ground, verdict
    from services.learner.reproduce import reproduce as prove

    settings = load_settings(data=data)
    device = choose_device(settings)
    materials, journal = load_materials(settings, device), ReadJournal(settings.data / "learner.db")
    kept = KeptVersions(materials.store, materials.key.public_key(), journal, materials.layout.total)
    batches = MicroBatches(journal.db, materials.train, materials.task.labels)
    made = journal.making(version)
    recipe = materials.recipe if made is None else journal.recipe(made.recipe)
    torch.set_num_threads(recipe.threads)
    with Progress(transient=True) as bar:
        task = bar.add_task(f"redoing version {version}")
        proof = prove(
            journal,
            materials.trainer(device),
            batches,
            kept.load,
            version=version,
            tensors=settings.data / "tensors",
            progress=lambda done, rows: bar.update(task, completed=done, total=rows),
        )
    typer.echo(verdict(version, proof, other_ground(recipe, materials.recipe)))
    raise typer.Exit(proof.outcome)
