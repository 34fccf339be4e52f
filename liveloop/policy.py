"""How a label is chosen from what the model finds probable, and with which propensity. Knows numbers; knows no model and no service.

    argmax            the best label, always
    epsilon:E         with probability E any label, each as likely, else the best
    temperature:T     each label with probability proportional to p ** (1 / T)

Exploring costs right answers, and with two labels it teaches nothing more: a thumb on one says all there is to say of the other. It is for
logs from which other policies are to be judged.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

TICKETS = 1 << 24
"""Parts of one in which propensities are counted: each is exact as a 32-bit float, and they sum to 1 without rounding."""

_Shares = Callable[[Sequence[float], int], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Policy:
    """What is shown, given the model's probabilities."""

    name: str  # as it was given
    _shares: _Shares

    @classmethod
    def parse(cls, text: str) -> Policy:
        """From `argmax`, `epsilon:E` with E in [0, 1] or `temperature:T` with T above 0. Raises ValueError."""
        kind, _, number = text.partition(":")
        if text == "argmax":
            return cls(text, partial(_epsilon, 0.0))
        value = _number(number)
        if kind == "epsilon" and 0.0 <= value <= 1.0:
            return cls(text, partial(_epsilon, value))
        if kind == "temperature" and 0.0 < value < math.inf:
            return cls(text, partial(_softened, value))
        raise ValueError(f"a policy is argmax, epsilon:E with E from 0 to 1, or temperature:T with T above 0, not {text!r}")

    def tickets(self, probabilities: Sequence[float], best: int) -> list[int]:
        """Of TICKETS, how many each label has; `best` is the model's choice."""
        return _whole(self._shares(probabilities, best))

    def choose(self, probabilities: Sequence[float], best: int, prediction_id: str) -> tuple[int, float]:
        """A label and its propensity, in (0, 1]; what is drawn follows from the id, so that anyone can draw it again."""
        if self.name == "argmax":
            return best, 1.0
        tickets, drawn = self.tickets(probabilities, best), _draw(prediction_id)
        label = next(label for label, upto in enumerate(accumulate(tickets)) if drawn < upto)
        return label, tickets[label] / TICKETS


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _draw(prediction_id: str) -> int:
    """A number below TICKETS: a hash of the id that is used for nothing else."""
    return int.from_bytes(hashlib.blake2b(prediction_id.encode(), digest_size=3, person=b"policy").digest(), "big")


def _epsilon(epsilon: float, probabilities: Sequence[float], best: int) -> list[float]:
    each = epsilon / len(probabilities)
    return [each + (1.0 - epsilon) * (label == best) for label in range(len(probabilities))]


def _softened(temperature: float, probabilities: Sequence[float], best: int) -> list[float]:
    """Against the greatest, so that no power overflows."""
    return [(probability / probabilities[best]) ** (1.0 / temperature) for probability in probabilities]


def _whole(shares: Sequence[float]) -> list[int]:
    """Shares as tickets, each within one of its due; those that rounding leaves over go to the greatest remainders (Hamilton 1792)."""
    total = math.fsum(shares)
    due = [share / total * TICKETS for share in shares]
    tickets = [int(one) for one in due]
    over = TICKETS - sum(tickets)
    for label in sorted(range(len(due)), key=lambda label: tickets[label] - due[label])[:over]:
        tickets[label] += 1
    return tickets


ARGMAX = Policy.parse("argmax")
"""The best label, always."""
