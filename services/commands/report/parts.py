"""What the page is made of. Knows nothing of what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from liveloop.v1.learner_pb2 import Version


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture and what it shows."""

    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; everything is escaped when it is written."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    layout: Literal["", "wide", "wide prose"] = ""  # as wide as the page; and the last column takes sentences


@dataclass(frozen=True, slots=True)
class Matrix:
    """How often each right label was answered with each label."""

    caption: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]  # rows by their label, columns by the answer

    def shares(self) -> Sequence[Sequence[float]]:
        """Of the rows with a label, in percent."""
        return [[100 * count / max(1, sum(line)) for count in line] for line in self.counts]


@dataclass(frozen=True, slots=True)
class Chapter:
    """One part of the page; without figures and tables it says that there is nothing yet."""

    name: str  # its id in the page
    title: str
    hint: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    matrices: Sequence[Matrix] = ()
    strip: Sequence[Version] = ()
    half: bool = False  # another stands beside it where there is room
