"""What the loop drives, in one place. Builds nothing and does nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from liveloop.events import EventLog
from services.learner.bursts import Bursts
from services.learner.examiner import Examiner
from services.learner.guard import Guard
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from services.learner.micro_batch import MicroBatches
from services.learner.orders import Orders
from services.learner.publication import Publication
from services.learner.tensors import TensorCache
from services.learner.trainer import Trainer


@dataclass(slots=True)
class Parts:
    """Built in assembly.py."""

    log: EventLog
    journal: Journal
    joiner: Joiner
    batches: MicroBatches
    trainer: Trainer
    publication: Publication
    examiner: Examiner
    tensors: TensorCache
    bursts: Bursts | None = None
    guard: Guard = field(default_factory=Guard)
    orders: Orders = field(default_factory=Orders)
