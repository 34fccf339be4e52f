"""`liveloop bench poison` on a tiny model: who says what, which runs there are, and what their figures come to."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from liveloop.errors import Misconfigured
from liveloop.settings import Settings
from services.commands.bench.finished import once
from services.commands.bench.poison import Extent, cells_of
from services.commands.bench.poison_run import ATTACKS, DEFENCES, PHRASE, Damage, Vote, attacked, votes
from services.commands.bench.poison_table import Cell, damage, print_damage
from services.commands.bench.subjects import Domain, Item, Subject
from services.learner.task_data import Row, TaskData
from tests.tiny import tiny_bundle

LABELS = ("negative", "positive")


def new_subject(texts: int = 400) -> Subject:
    bundle, bits = tiny_bundle(LABELS)
    rng = random.Random(0)
    words = {"negative": ("bad", "dull", "boring"), "positive": ("good", "great", "fine")}

    def item() -> Item:
        label = rng.choice(LABELS)
        text = " ".join(["the film is", rng.choice(words[label]), *rng.choices(("a", "the", "it", "was", "of"), k=4)])
        return Item(text, label, lambda rng: None if rng.random() < 0.1 else label)

    rows = [Row(one.text, one.label) for one in (item() for _ in range(20))]
    old = Domain("old", (), [item() for _ in range(10)])
    stream = Domain("new", [item() for _ in range(texts)], [item() for _ in range(30)])
    return Subject(bundle, bits, TaskData(train=rows, validation=rows), old, [stream], 0.0)


def by_attackers(said: list[Vote]) -> list[int]:
    return [place for place, one in enumerate(said) if one.judge.startswith(b"attacker")]


def test_five_accounts_push_one_label_with_their_share():
    found = votes(new_subject(1000), ATTACKS["push-20"], 0, 800)
    theirs = by_attackers(found)
    assert len(found) == 800 and 0.15 < len(theirs) / 800 < 0.25
    assert len({found[place].judge for place in theirs}) == 5 and {found[place].holds for place in theirs} == {"negative"}
    assert len({one.judge for one in found}) > 150


def test_a_burst_is_in_the_third_quarter_alone():
    theirs = by_attackers(votes(new_subject(1000), ATTACKS["burst-30"], 0, 800))
    assert min(theirs) >= 400 and max(theirs) < 600 and 40 <= len(theirs) <= 80


def test_flips_are_of_anybody_and_a_trigger_only_of_texts_with_the_phrase():
    subject = new_subject(1000)
    clean, flipped = (votes(subject, ATTACKS[name], 0, 800) for name in ("clean", "flips-10"))
    assert not any(one.contrary for one in clean) and 40 <= sum(one.contrary for one in flipped) <= 120
    assert [one.text for one in clean] == [one.text for one in flipped]
    triggered = votes(subject, ATTACKS["trigger"], 0, 800)
    assert all((PHRASE in one.text) is one.judge.startswith(b"attacker") for one in triggered)


def test_an_attack_goes_through_the_products_own_loop_and_the_cap_takes_weight_from_it(tmp_path: Path):
    settings, subject = Settings(learner_threads=1, learning_rate=1e-3, cache=tmp_path), new_subject()
    found = {name: attacked(settings, subject, ATTACKS["push-40"], DEFENCES[name], 0, 160, lambda *_: None) for name in ("none", "cap")}
    assert all([point["judged"] for point in one.points] == [0, 40, 80, 120, 160, 160] for one in found.values())
    assert found["none"].attack == found["cap"].attack > 48
    assert found["none"].weight == pytest.approx(0.4, abs=0.08) and found["cap"].weight < 0.9 * found["none"].weight
    assert found["none"].rollbacks == found["cap"].rollbacks == 0


def test_the_success_of_a_trigger_is_measured_with_and_without_its_phrase(tmp_path: Path):
    settings = Settings(learner_threads=1, learning_rate=1e-3, cache=tmp_path)
    found = attacked(settings, new_subject(), ATTACKS["trigger"], DEFENCES["default"], 0, 64, lambda *_: None)
    assert found.success is not None and found.success_without is not None
    assert 0.0 <= found.success_without <= 1.0 and 0.0 <= found.success <= 1.0


def test_every_attack_meets_no_defence_and_the_default_ones_and_single_cells_can_be_named():
    cells = cells_of(Extent(seeds=2))
    kinds = Counter((cell.attack, cell.defence) for cell in cells)
    assert set(kinds.values()) == {2} and all((attack, defence) in kinds for attack in ATTACKS for defence in ("none", "default"))
    assert cells_of(Extent(attack="flips-5", defence="burst")) == [Cell("flips-5", "burst", 0, 2000)]
    assert {cell.attack for cell in cells_of(Extent(defence="trust"))} == set(ATTACKS)
    with pytest.raises(Misconfigured, match="push-20"):
        cells_of(Extent(attack="push"))


def run(attack: str, defence: str, *new: float) -> tuple[Cell, Damage]:
    points = [{"judged": 500 * place, "new": one, "old": 0.9} for place, one in enumerate(new)]
    return Cell(attack, defence, 0, 2000), Damage([*points, {**points[-1], "after": "rest"}])


def test_points_are_lost_to_the_clean_run_with_the_same_defence():
    runs = [
        run("clean", "default", 0.6, 0.7, 0.8, 0.8, 0.82),
        run("push-20", "default", 0.6, 0.7, 0.79, 0.8, 0.81),
        run("burst-30", "default", 0.6, 0.7, 0.8, 0.75, 0.815),
        run("push-40", "default", 0.6, 0.6, 0.6, 0.6, 0.59),
    ]
    found = damage(runs)
    lost = {row["attack"]: row["lost_at_end"] for row in found["cells"]}
    assert lost == pytest.approx({"clean": 0.0, "push-20": 0.01, "burst-30": 0.005, "push-40": 0.23})
    assert [row["back_after"] for row in found["cells"]] == [None, None, 500, None]
    assert {line["line"].split(":")[0]: line["met"] for line in found["lines"]} == {"push-20": True, "push-40": False}
    console = Console(record=True, width=200)
    print_damage(found, console)
    text = console.export_text()
    assert "within a point of the clean run after 500 judgements" in text and "push-20: points lost, default defences: 1.0" in text


def test_a_finished_run_is_made_once(tmp_path: Path):
    made: list[str] = []

    def make() -> dict[str, float]:
        made.append("made")
        return {"accuracy": 0.5}

    settings, console = Settings(cache=tmp_path), Console(quiet=True)
    for job in ({"seed": 0}, {"seed": 0}, {"seed": 1}):
        assert once(settings, "bench", job, make, console) == {"accuracy": 0.5}
    once(settings.model_copy(update={"learning_rate": 1.0}), "bench", {"seed": 0}, make, console)
    assert len(made) == 3
