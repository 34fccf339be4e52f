"""The learner: reads events, joins, steps, guards, journals, publishes. The only writer of weights.

joiner.py         what becomes of a feedback, whatever the order in which events arrive
judgements.py     a judgement as the table has it; retention.py: what goes from the join store, and when
micro_batch.py    what one step learns from; experts.py: what experts' words weigh in it
influence.py      what a judge's word weighs beside everybody else's; bursts.py: a few accounts that suddenly give much
trainer.py        master, moments and EMA; one optimiser step
guard.py          the cheap checks before a step
journal.py        the append-only record of every step and decision; lease.py: who may write it
rows.py           the journal as it is read; view.py, provenance.py: by others
versions.py       what became of each version; lineage.py: which rows still stand after the resets
publication.py    from a journal row to a version that pods can fetch
evaluator.py      how served bytes answer rows; verdict.py: what follows; examiner.py: which version, against which, on which rows
canary.py         what the users of two channels say, and what follows; promotion.py: carries it out
live.py           how right the answers were that people judged lately; intervals.py: how far a figure can be trusted
evaluation.py     how a version answers test rows and judged answers, beside version 1
off_policy.py     what another policy would have earned; logged.py: from which answers
operator.py       what may be ordered; orders.py: hands orders to the loop's thread; quarantine.py: the ways out of there
loop.py           read, join, step, guard, journal, publish
tensors.py        the cache of master, moments and EMA on disk
forget.py         the order to forget somebody: erasure.py removes, rebuild.py redoes training without it
redo.py           from the journal back to the tensors; resume.py: where a start goes on; reproduce.py: the proof of a version
materials.py      what is read from the data folder before the lease is taken
server.py         LearnerService
pretrained.py     a checkpoint as a first version; scope.py: what of it is trained
task_data.py      labelled rows; warm_start.py: training on them before the first version
"""
