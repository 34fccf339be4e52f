"""What the loop is to learn in a measurement: a start, streams of texts with what people said of them, and held-out texts.

movie   K = 2: tweets are the task data, then people judge movie reviews
drift   the same, then Amazon reviews, then editorials
tri     K = 3: negative, neutral, positive; tweets, then movie reviews
news    K = 5: topics of news from five labelled texts of each; thumbs with 5 % noise
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from liveloop.v1.weights_pb2 import ModelBundle
from services.commands.assets import demo_assets, news_articles
from services.commands.demo_model import warm_start
from services.commands.raters import LABELS, THREE_LABELS, RatedText, read_domain, vote
from services.learner.task_data import Row, TaskData

_TRAIN, _VALIDATION, _TEST = 1000, 300, 1000
_NEWS_TEST, _NEWS_PER_LABEL, _NEWS_NOISE = 700, 5, 0.05


@dataclass(frozen=True, slots=True)
class Item:
    """A text that people judge."""

    text: str
    label: str  # what is right
    vote: Callable[[random.Random], str | None]  # what one of them, drawn at random, holds for right; None: says nothing


@dataclass(frozen=True, slots=True)
class Domain:
    """Texts of one kind, none in both."""

    name: str
    stream: Sequence[Item]
    test: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Subject:
    """One line of the table: what is known at the start, and what comes then."""

    bundle: ModelBundle
    bits: np.ndarray  # of version 1: bf16 bit patterns, uint16, [layout.total]
    task_data: TaskData
    old: Domain  # where the task data is from; its stream is empty
    streams: Sequence[Domain]  # one after the other
    noise: float  # share of the thumbs that say the contrary
    checks: Sequence[Domain] = ()  # further held-out texts; their streams are empty

    @property
    def tests(self) -> list[Domain]:
        """All that it is tested on."""
        return [self.old, *self.streams, *self.checks]


def subject(name: str, settings: Settings, seed: int, console: Console) -> Subject:
    """Read and prepare one; `seed` decides which labelled texts the news begin with. Raises Misconfigured."""
    makers: dict[str, Callable[[Settings, int, Console], Subject]] = {
        "movie": partial(_sentiment, LABELS, ("movieReviewSnippets",)),
        "drift": partial(_sentiment, LABELS, ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets")),
        "tri": partial(_sentiment, THREE_LABELS, ("movieReviewSnippets",)),
        "news": _news,
    }
    if name not in makers:
        raise Misconfigured(f"there is no line {name!r}; there are {', '.join(makers)}")
    return makers[name](settings, seed, console)


def _sentiment(labels: Sequence[str], domains: Sequence[str], settings: Settings, _seed: int, console: Console) -> Subject:
    study = demo_assets(settings.cache, console).study
    tweets = read_domain(study, "tweets", labels)
    validation_ends = _TRAIN + _VALIDATION
    test = tweets[validation_ends : validation_ends + _TEST]
    data = TaskData(train=_rows(tweets[:_TRAIN]), validation=_rows(tweets[_TRAIN:validation_ends]), test=_rows(test))
    bundle, bits = warm_start(settings, data, labels, console)
    return Subject(bundle, bits, data, Domain("tweets", (), _items(test, labels)), [_rated(study, name, labels) for name in domains], 0.0)


def _rated(study: Path, name: str, labels: Sequence[str]) -> Domain:
    items = _items(read_domain(study, name, labels), labels)
    return Domain(name.removesuffix("Snippets"), items[_TEST:], items[:_TEST])


def _items(texts: Sequence[RatedText], labels: Sequence[str]) -> list[Item]:
    return [Item(one.text, one.label, lambda rng, one=one: vote(one, rng, labels)) for one in texts]  # type: ignore[misc]


def _rows(texts: Sequence[RatedText]) -> list[Row]:
    return [Row(one.text, one.label) for one in texts]


def _news(settings: Settings, seed: int, console: Console) -> Subject:
    """The labelled texts are of the seed's choice; nothing is left to validate on."""
    lines = news_articles(settings.cache, console).read_text("utf-8").splitlines()
    found = {row["text"]: row["label"] for row in map(json.loads, lines)}
    order = sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())
    items = [Item(text, found[text], lambda _, label=found[text]: label) for text in order]  # type: ignore[misc]
    labels = sorted(set(found.values()))
    test, rest = items[:_NEWS_TEST], random.Random(seed).sample(items[_NEWS_TEST:], len(items) - _NEWS_TEST)
    known = [one for label in labels for one in [item for item in rest if item.label == label][:_NEWS_PER_LABEL]]
    stream = [item for item in rest if item not in known]
    data = TaskData(train=[Row(item.text, item.label) for item in known])
    bundle, bits = warm_start(settings, data, labels, console, epochs=4, max_tokens=48)
    return Subject(bundle, bits, data, Domain("labelled", (), known), [Domain("news", stream, test)], _NEWS_NOISE)


def shortened(whole: Subject, tests: int) -> Subject:
    """With at most `tests` held-out texts of each domain: for a quick look."""
    return replace(
        whole,
        old=replace(whole.old, test=whole.old.test[:tests]),
        streams=[replace(one, test=one.test[:tests]) for one in whole.streams],
    )
