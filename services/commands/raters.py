"""The VADER study: texts with the scores of individual people, split for a demo. Knows the study's files, not what is learnt from them.

Source: Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014.
"""

from __future__ import annotations

import hashlib
import html
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NEUTRAL = "neutral"
LABELS = ("negative", "positive")
THREE_LABELS = ("negative", NEUTRAL, "positive")

# A mean score nearer to 0 says that people saw no clear sentiment, or none they agreed on: there is no right answer to check against.
_CLEAR = 0.5

_TWEETS_TRAIN, _TWEETS_VALIDATION, _TWEETS_TEST = 1000, 300, 1000
_REVIEWS_TEST = 1000


@dataclass(frozen=True, slots=True)
class RatedText:
    """A text and what people said of it."""

    text: str
    scores: tuple[int, ...]  # one per rater, -4 (most negative) to 4; 0: neutral, or not applicable
    label: str  # by the sign of their mean; neutral where that is near 0


@dataclass(frozen=True, slots=True)
class Study:
    """Two domains, no text in two places."""

    tweets_train: list[RatedText]  # the labelled rows of the warm start
    tweets_validation: list[RatedText]
    tweets_test: list[RatedText]  # held out: the old domain
    reviews_stream: list[RatedText]  # shown to raters: the new domain
    reviews_test: list[RatedText]  # held out: the new domain


def read_study(folder: Path) -> Study:
    """Read and split the study's tweets and movie reviews: always the same texts in the same places, in the same order."""
    tweets, reviews = read_domain(folder, "tweets"), read_domain(folder, "movieReviewSnippets")
    validation_ends = _TWEETS_TRAIN + _TWEETS_VALIDATION
    return Study(
        tweets_train=tweets[:_TWEETS_TRAIN],
        tweets_validation=tweets[_TWEETS_TRAIN:validation_ends],
        tweets_test=tweets[validation_ends : validation_ends + _TWEETS_TEST],
        reviews_stream=reviews[_REVIEWS_TEST:],
        reviews_test=reviews[:_REVIEWS_TEST],
    )


def read_domain(folder: Path, domain: str, labels: Sequence[str] = LABELS) -> list[RatedText]:
    """The texts of "tweets", "movieReviewSnippets", "amazonReviewSnippets" or "nytEditorialSnippets", each once, always in one order.

    With LABELS alone those with no clear mean are left out; with THREE_LABELS they are the neutral ones.
    """
    return _in_hash_order([item for item in _read(folder, domain) if item.label in labels])


def vote(item: RatedText, rng: random.Random, labels: Sequence[str] = LABELS) -> str | None:
    """The label that one rater, drawn at random, gives a text; None where a rater saw no sentiment and there is no label for that."""
    score = rng.choice(item.scores)
    return (NEUTRAL if NEUTRAL in labels else None) if score == 0 else LABELS[score > 0]


def thumb(item: RatedText, predicted: str, rng: random.Random) -> bool | None:
    """What one rater, drawn at random, says to the answer `predicted`: True up, False down, None nothing (the rater saw no sentiment)."""
    said = vote(item, rng)
    return None if said is None else said == predicted


def _read(folder: Path, domain: str) -> list[RatedText]:
    """Texts whose mean is the same in both files; for 199 tweets it is not: their text and ratings do not belong together."""
    texts: dict[str, tuple[float, str]] = {}
    for line in (folder / f"{domain}_GroundTruth.txt").read_text("utf-8-sig").splitlines():
        number, mean, text = line.split("\t", 2)
        texts[number] = float(mean), text.strip()
    found: list[RatedText] = []
    for line in (folder / f"{domain}_anonDataRatings.txt").read_text("utf-8-sig").splitlines():
        number, mean, _, scores = line.split("\t")
        stated, text = texts[number]
        if abs(stated - float(mean)) < 1e-3:
            found.append(RatedText(text, tuple(json.loads(scores)), LABELS[stated > 0] if abs(stated) >= _CLEAR else NEUTRAL))
    return found


def _in_hash_order(items: list[RatedText]) -> list[RatedText]:
    """Each text once, in the order of its hash: a random split that is the same everywhere."""
    first: dict[str, RatedText] = {}
    for item in items:
        first.setdefault(_words(item.text), item)
    return [first[words] for words in sorted(first, key=lambda words: hashlib.sha256(words.encode()).digest())]


def _words(text: str) -> str:
    """What makes two texts the same: their words, whatever case and punctuation; the text itself where it has no words."""
    return " ".join(re.findall(r"\w+", html.unescape(text).casefold())) or text
