"""Where a learner goes on after a start: the journal decides. Knows the parts; takes no step of its own."""

from __future__ import annotations

from functools import partial

from liveloop import telemetry
from liveloop.errors import Misconfigured, NotFound, WeightsRefused
from services.learner.erasure import truncate
from services.learner.parts import Parts
from services.learner.rebuild import RebuildFailed, rebuild
from services.learner.redo import Unequal, redo
from services.learner.rows import Due
from services.learner.trainer import Recipe

_log = telemetry.logger(part="resume")


def resume(parts: Parts, recipe: Recipe) -> None:
    """Bring the trainer to where the journal stands; an unequal redo goes on from what is served, in a row that says so.

    Raises Misconfigured when the journal is of another model than the one that was published.
    """
    truncate(parts.journal.db)  # a crash may have come between an erasure and this
    journal, publisher, trainer = parts.journal, parts.publication.publisher, parts.trainer
    model = publisher.head.model_digest.hex()
    first = journal.first()
    beginning = publisher.head.current if first is None or first.version is None else first.version
    trainer.refer_to(partial(parts.publication.load, beginning))
    if first is None:
        trainer.reset(publisher.state.bits)
        journal.change("init", recipe, {"model": model}, publisher.state.digest, version=publisher.head.current)
        parts.publication.know_current()
        return
    if first.body.get("model", model) != model:
        raise Misconfigured("the journal is of another model than the weights beside it: start the new model in a data folder of its own")
    parts.publication.know_current()
    parts.publication.let_go()
    trainer.reset(publisher.state.bits)  # for the frozen values: the journal's rows and the cached tensors have none
    if (due := journal.due_rebuild()) is not None:
        try:
            rebuild(parts, recipe, due, journal.renew)
        except RebuildFailed as error:
            _log.error("a rebuild that is due cannot be made", reason=error.reason)
            trainer.reset(publisher.state.bits)
    for replaced in journal.rebuilds():
        parts.tensors.remove(*replaced)
    try:
        cached = parts.tensors.newest(lambda row: not journal.is_spoilt(row))
        redo(journal, trainer, parts.batches, parts.publication.load, cached=cached, alive=journal.renew)
    except Unequal as error:
        _log.warning("the journal cannot be redone to the bit here; going on from the redone state", reason=error.reason)
        trainer.reset(trainer.bits.copy())
        row = journal.change("rebase", recipe, {"why": error.reason}, publisher.stage(trainer.bits).digest)
        parts.tensors.save(row.row, trainer.tensors(), wait=True)  # it can be redone before its version is published
    except (NotFound, WeightsRefused) as error:
        if journal.is_replaced(publisher.head.current):  # what is served still holds what was erased: nothing to go on from
            rebuild(parts, recipe, Due(min(first for first, _ in journal.rebuilds()), "learner", error.reason), journal.renew)
            return
        last = journal.last()
        assert last is not None and last.version is not None
        is_unpublished = last.kind == "reset" and last.version > publisher.head.current  # then what is served was just taken back
        version, bits = parts.publication.load_or_older(last.body["to"] if is_unpublished else publisher.head.current)
        _log.warning("the journal cannot be redone; going on from a version", version=version, reason=error.reason)
        trainer.reset(bits)
        journal.reset(version, recipe, publisher.stage(bits).digest, error.reason, who="learner")
