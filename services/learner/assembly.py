"""How the parts of a learner are put together, the same for its process and for a measurement. Runs nothing."""

from __future__ import annotations

from math import inf

import torch

from liveloop.events import EventLog
from liveloop.settings import Settings
from liveloop.weights.mirror import Mirror
from liveloop.weights.publisher import Publisher
from services.learner.bursts import Bursts
from services.learner.examiner import Examiner
from services.learner.influence import Influence
from services.learner.joiner import Joiner
from services.learner.journal import Journal
from services.learner.loop import LearnerLoop, Pace
from services.learner.materials import Materials
from services.learner.micro_batch import MicroBatches
from services.learner.orders import Orders
from services.learner.parts import Parts
from services.learner.publication import Publication
from services.learner.tensors import TensorCache
from services.learner.trainer import Trainer


def new_publisher(settings: Settings, materials: Materials, journal: Journal) -> Publisher:
    """Publishes under the journal's lease; close it."""
    return Publisher(materials.store, materials.key, epoch=journal.epoch, canary_share=settings.canary_share)


def assemble(
    settings: Settings,
    materials: Materials,
    trainer: Trainer,
    journal: Journal,
    log: EventLog,
    publisher: Publisher,
    *,
    mirror: Mirror | None = None,
    orders: Orders | None = None,
) -> Parts:
    """The parts of a learner whose journal holds the lease; close the tensors."""
    device = torch.device(materials.recipe.device.split()[0])
    joiner = Joiner(journal.db, labels=materials.task.labels, window=settings.feedback_window, default_reward=settings.default_reward)
    influence = Influence(journal.db, cap=settings.influence_cap, trust=settings.trust)
    batches = MicroBatches(journal.db, materials.train, materials.task.labels, influence)
    bursts = Bursts(journal.db) if settings.burst_quarantine else None
    publication = Publication(publisher, journal, mirror, gated=settings.publish == "gated")
    examiner = Examiner(materials.evaluator(device), journal, batches, trainer, publication)
    tensors = TensorCache(settings.data / "tensors", history=settings.history)
    return Parts(log, journal, joiner, batches, trainer, publication, examiner, tensors, bursts=bursts, orders=orders or Orders())


def new_loop(settings: Settings, materials: Materials, parts: Parts) -> LearnerLoop:
    """The loop that drives them."""
    pace = Pace(
        settings.step_interval,
        settings.micro_batch_limit,
        settings.history,
        inf if settings.consolidate_after is None else settings.consolidate_after,
    )
    return LearnerLoop(parts, materials.recipe, pace)
