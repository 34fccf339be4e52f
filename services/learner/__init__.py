"""The learner: reads events, joins, steps, guards, journals, publishes. The only writer of weights.

joiner.py       what becomes of a feedback, whatever the order in which events arrive
micro_batch.py  what one step learns from
trainer.py      master, moments and EMA; one optimiser step
guard.py        the cheap checks before a step, and the gate on publishing
evaluator.py    the full evaluation of served bytes, in slices
journal.py      the append-only record of every step and decision, under a lease
view.py         the journal as others may read it
tensors.py      the cache of master, moments and EMA on disk
redo.py         from the journal back to the tensors
loop.py         read, join, step, guard, journal, publish
server.py       LearnerService
"""
