"""The learner: reads events, joins, steps, guards, journals, publishes. The only writer of weights.

joiner.py         what becomes of a feedback, whatever the order in which events arrive
micro_batch.py    what one step learns from
trainer.py        master, moments and EMA; one optimiser step
guard.py          the cheap checks before a step, and the gate on publishing
journal.py        the append-only record of every step and decision; lease.py: who may write it; view.py: as others read it
publication.py    from a journal row to a version that pods can fetch
evaluator.py      the full evaluation of served bytes, in slices; examiner.py: which version, and what follows
loop.py           read, join, step, guard, journal, publish
tensors.py        the cache of master, moments and EMA on disk
redo.py           from the journal back to the tensors; resume.py: where a start goes on
materials.py      what is read from the data folder before the lease is taken
server.py         LearnerService
pretrained.py     a checkpoint as a first version; task_data.py, warm_start.py: labelled rows, and training on them
"""
