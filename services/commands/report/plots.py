"""Pictures that take their colours from the page: inline SVG by matplotlib. Knows numbers and what they are called; knows no journal."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from services.learner.intervals import Estimate

INK, SOFT, LINE = "#010101", "#010102", "#010103"
SERIES = ("#020201", "#020202", "#020203", "#020204", "#020205", "#020206")
"""Colours that no picture has by chance: each stands for a variable of the page's style, so that light and dark are one picture."""
_VARIABLES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"} | {one: f"var(--plot-{n})" for n, one in enumerate(SERIES, 1)}
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # names are people's
    "font.size": 8.0,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 8.0,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.facecolor": "none",
}
_SIZE = (5.0, 2.9)
"""Inches of 72 points: on a telephone it is shown at about this size, so that 8 points are readable there."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Places and values; with an interval about each where there is one."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def curves(found: Mapping[str, Curve], *, name: str, x: str, y: str, zero: bool = False) -> Markup:
    """A line for each, its interval as a band; a lone point as a mark."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new(x, y)
        for (label, curve), color in zip(found.items(), cycle(SERIES), strict=False):
            if curve.low:
                axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
            axes.plot(curve.x, curve.y, color=color, label=label, linewidth=1.5, marker="o", markersize=2.5 if len(curve.x) < 30 else 0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if zero:
            axes.set_ylim(bottom=0)
        _legend(axes, len(found))
        return _svg(figure, name)


def accuracies(found: Mapping[str, Sequence[tuple[float, Estimate]]], *, name: str, x: str) -> Markup:
    """Shares of right answers in percent, with their intervals."""
    return curves(
        {
            label: Curve(
                [place for place, _ in points],
                [100 * one.value for _, one in points],
                [100 * one.low for _, one in points],
                [100 * one.high for _, one in points],
            )
            for label, points in found.items()
        },
        name=name,
        x=x,
        y="right answers, %",
    )


def stacked(found: Mapping[str, Sequence[int]], *, name: str, x: str, places: Sequence[float]) -> Markup:
    """Bars of counts on top of each other; `places` are their middles, equally far apart."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new(x, "feedback")
        below = np.zeros(len(places))
        width = 0.9 * (places[1] - places[0]) if len(places) > 1 else 0.9
        for (label, counts), color in zip(found.items(), cycle(SERIES), strict=False):
            axes.bar(places, counts, width, bottom=below, color=color, label=label, linewidth=0)
            below += np.asarray(counts)
        _legend(axes, len(found) + 1)
        return _svg(figure, name)


def histogram(values: npt.NDArray[np.float64], *, name: str, x: str, y: str) -> Markup:
    """How often each size of `values` came, on a logarithmic scale; those below a hundredth count as one."""
    with mpl.rc_context(_STYLE):
        figure, axes = _new(x, y)
        sizes = np.maximum(values, 0.01)
        low, high = float(sizes.min()) / 1.2, float(sizes.max()) * 1.2
        axes.hist(sizes, bins=np.geomspace(low, high, 31).tolist(), color=SERIES[0], rwidth=0.92)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if high < 100 * low:  # hardly a decade: the tens alone would leave the axis bare
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        return _svg(figure, name)


def _new(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=False, axis="x")
    return figure, axes


def _legend(axes: Axes, entries: int) -> None:
    """Above the picture, where no curve is; a lone curve is named by the axis."""
    if entries > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, handlelength=1.2, columnspacing=1.2)


def _svg(figure: Figure, name: str) -> Markup:
    """As a part of a page: ids of its own, the page's colours and font, no file header."""
    written = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\1{name}-", text)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would be the whole page's
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", re.sub(r"font-family: [^;\"]*;", "", text))
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(name)}" ', 1))  # noqa: S704  matplotlib escapes what it is given
