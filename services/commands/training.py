"""The warm start with a progress bar. Knows the terminal and nothing of what is trained."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from liveloop.v1.weights_pb2 import ModelBundle
from services.learner.task_data import TaskData
from services.learner.warm_start import Plan, Trained, train


def train_with_bar(bundle: ModelBundle, flat: torch.Tensor, data: TaskData, plan: Plan, console: Console) -> Trained:
    """Train from the state `flat` (fp32, [layout.total]) and show how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=1.0)

        def show(share: float, words: str) -> None:
            bar.update(task, completed=share, description=words)

        return train(bundle, flat, data.train, data.validation, plan, show)
