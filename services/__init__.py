"""The processes that run liveloop: they start from a clone or an image and are not part of the wheel."""

import os

# Read by OpenMP when torch is imported. Its threads otherwise spin while they wait for each other; where two processes share two cores
# they spin on the core that the other one needs, and a step takes up to eight times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
