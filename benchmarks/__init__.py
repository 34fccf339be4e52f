"""What liveloop is measured against, and measurements of single parts. Knows the library; no service knows it.

baselines.py            the encoders that patches are compared with
memory.py               prints what a large model takes in the learner and in a pod
guard_simulation.py     prints how often the guard errs, and how soon it catches what is worse
guard_drift.py          prints what the guard decides while the domain changes
canary_simulation.py    prints how often a canary's users promote and take back, and after how many judgements
"""
