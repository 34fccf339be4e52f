"""`liveloop report` on a data folder that a learner is working in: its figures are the journal's, and nothing of users' is markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from liveloop import cli
from liveloop.settings import Settings
from liveloop.v1.events_pb2 import THUMB_DOWN, Event, Feedback, FeedbackEvent, Input, PodReport, PredictionEvent
from services.commands.report.before_after import compare_versions
from services.commands.report.fates import read_fates
from services.commands.report.people import read_people
from services.commands.report.steps import read_steps, scalars
from services.commands.report.writing import write_report
from services.learner.materials import read_test
from services.learner.reproduce import ReadJournal
from tests.unit.test_evaluate import TEXTS, Learner
from tests.unit.test_joiner import prediction_id

HOSTILE = "<script>alert(1)</script>"
SECRET = "nobody else may read this"
CHAPTERS = ("before-after", "accuracy", "live", "freshness", "loss", "patches", "versions", "votes", "guard")


def tell(learner: Learner) -> None:
    """A short life: three people judge, somebody is hostile, an operator rolls back, and people judge again."""
    for number, text in enumerate(TEXTS[:48]):
        learner.judge(text, "positive", judge=f"judge {number % 3}", held_out=number % 8 == 0)
        if number % 16 == 15:
            learner.learn()
    of = prediction_id(900, held_out=False, seconds=learner.since)
    prediction = PredictionEvent(prediction_id=of, input=Input(text=SECRET), label="positive", version=1)
    prediction.created_at.GetCurrentTime()
    thumb = Feedback(feedback_id="x", prediction_id=of, thumb=THUMB_DOWN, reasons=[HOSTILE], comment=SECRET)
    judged = FeedbackEvent(feedback=thumb, judge=b"mallory")
    judged.accepted_at.GetCurrentTime()
    learner.log.append([Event(prediction=prediction), Event(feedback=judged)])
    learner.sent[False] += 1
    newest = learner.learn()
    report = PodReport(pod="pod", version=newest, epoch=learner.journal.epoch, revision=99)
    report.flipped_at.GetCurrentTime()
    report.reported_at.GetCurrentTime()
    learner.log.append([Event(pod_report=report)])
    learner.turn_until(lambda: learner.journal.db.execute("SELECT count(served_at) FROM feedback").fetchone()[0] > 0)
    learner.turn_until(lambda: not learner.parts.examiner.has_work)
    learner.loop._rollback.order(2, "operator", HOSTILE)
    learner.judge(TEXTS[50], "negative")
    learner.learn()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Learner]:
    learner = Learner(tmp_path_factory.mktemp("report"))
    tell(learner)
    write_report(learner.settings, learner.settings.data / "report.html")
    yield learner
    learner.close()


@pytest.fixture
def page(told: Learner) -> str:
    return (told.settings.data / "report.html").read_text()


def one(learner: Learner, query: str) -> int:
    return int(learner.journal.db.execute(query).fetchone()[0])


def row(page: str, name: str, chapter: str) -> list[str]:
    """The cells of the first table row of a chapter that begins with `name`."""
    part = page[page.index(f'<section id="{chapter}"') :]
    found = re.search(rf'<tr><td class="name" title="{re.escape(name)}">.*?</tr>', part)
    assert found, f"{chapter} has no row {name}"
    return [unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", found[0])]


def test_the_page_has_every_chapter_and_its_counts_are_the_journals(told: Learner, page: str):
    assert [page.index(f'<section id="{name}"') for name in CHAPTERS] == sorted(page.index(f'<section id="{name}"') for name in CHAPTERS)
    assert row(page, "made", "versions")[1] == str(one(told, "SELECT count(version) FROM rows"))
    assert row(page, "by train", "versions")[1] == str(one(told, "SELECT count(*) FROM rows WHERE kind = 'train'"))
    assert row(page, "rolled back", "versions")[1] == str(
        one(told, "SELECT count(version) FROM rows WHERE version > 2 AND row < (SELECT row FROM rows WHERE kind = 'reset')")
    )
    assert row(page, "up", "votes")[1] == str(one(told, "SELECT count(*) FROM feedback WHERE signal = 'up'"))
    assert row(page, "quarantined", "votes")[1] == str(one(told, "SELECT count(*) FROM feedback WHERE state = 7"))
    assert row(page, "held out", "votes")[1] == str(one(told, "SELECT count(*) FROM feedback WHERE state = 10"))
    assert row(page, "rollback", "guard") == ["rollback", "1"]
    slowest = told.journal.db.execute("SELECT max(served_at - accepted_at) FROM feedback").fetchone()[0]
    assert row(page, "all", "freshness")[1] == f"{slowest:.2f} s"


def test_what_users_wrote_is_escaped_and_neither_texts_nor_comments_are_shown(page: str):
    assert "<script" not in page
    assert row(page, HOSTILE.replace("<", "&lt;").replace(">", "&gt;"), "votes")[0] == HOSTILE
    assert SECRET not in page
    assert not any(text in page for text in TEXTS[:48])


def test_the_page_asks_for_nothing_from_elsewhere(page: str):
    beyond = re.findall(r'(?:src|href)="(?!#)(?!data:)[^"]*"', page)
    assert beyond == []
    assert set(re.findall(r"""https?://[^"'\s]*""", page)) <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}


def test_before_and_after_are_what_both_versions_answer(told: Learner, page: str):
    journal, done = ReadJournal(told.settings.data / "learner.db"), []
    found = compare_versions(told.settings, journal, lambda *progress: done.append(progress))
    assert found is not None and (found.before, found.after) == (1, told.publisher.head.current)
    test, held_out = found.sets
    answers = told.answerer(found.after).answer(compared := read_test(told.settings.data / "task", told.materials.task.labels))
    right = sum(answer == one.label for answer, one in zip(answers, compared, strict=True)) / len(compared)
    assert (test.rows, test.after.value) == (60, right)
    assert test.now is not None and sum(map(sum, test.now.confusion)) == 60
    assert held_out.rows == one(told, "SELECT count(*) FROM feedback WHERE state = 10")
    assert held_out.then is not None and held_out.then.rows == held_out.rows  # of two labels the other one is right
    assert done[-1] == (2 * (60 + held_out.rows),) * 2
    assert row(page, "test rows", "before-after")[2:] == [test.before.points, test.after.points, test.gained.points]


def test_tensorboard_reads_back_every_step_with_its_row_and_time(told: Learner):
    found = EventAccumulator(str(told.settings.data / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    rows = told.journal.db.execute("SELECT row, created_at, body FROM rows WHERE kind IN ('train', 'consolidate') ORDER BY row").fetchall()
    for tag, name in (
        ("loss/task", "task_loss"),
        ("loss/feedback", "feedback_loss"),
        ("step/gradient_norm", "gradient_norm"),
        ("step/rate", "rate"),
    ):
        events = found.Scalars(tag)
        assert [(event.step, event.wall_time) for event in events] == [(row, at) for row, at, _ in rows]
        assert [event.value for event in events] == pytest.approx([json.loads(body)[name] for _, _, body in rows])
    assert [event.value for event in found.Scalars("examples/new")] == [len(json.loads(body)["new"]) for _, _, body in rows]
    evaluated = one(told, "SELECT count(*) FROM evaluations WHERE json_extract(scores, '$.feedback') IS NOT NULL")
    assert len(found.Scalars("accuracy/feedback")) == evaluated > 0
    served = one(told, "SELECT count(*) FROM feedback WHERE served_at IS NOT NULL AND row > 0")
    assert sum(event.value for event in found.Scalars("freshness/feedback")) == served > 0


def test_event_files_of_an_earlier_report_are_replaced(told: Learner):
    for _ in range(2):
        write_report(told.settings, told.settings.data / "report.html", evaluate=False)
    assert len(list((told.settings.data / "tensorboard").iterdir())) == 1


def test_a_long_journal_is_thinned_to_what_a_picture_shows_and_keeps_its_newest_row(tmp_path: Path):
    journal = Learner(tmp_path).journal
    body = json.dumps({"new": [1], "replayed": [], "task": [], "task_loss": 0.5, "feedback_loss": 0.25, "rate": 1.0, "gradient_norm": 1.0})
    many = 20_000
    with journal.transaction() as db:
        last = db.execute("SELECT max(row) FROM rows").fetchone()[0]
        values = [(last + n, "train", 1, last + n, body, "", b"", 1e9 + n) for n in range(1, many + 1)]
        db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        db.executemany("INSERT INTO versions VALUES (?, ?, '', 1000, '', NULL)", [(last + n, last + n - 1) for n in range(1, many + 1)])
        evaluations = [(last + n, '{"task": {"accuracy": 0.5, "rows": 100}}', 1, "", 1e9 + n) for n in range(1, many + 1)]
        db.executemany("INSERT INTO evaluations VALUES (?, ?, ?, ?, ?)", evaluations)
    found = read_steps(journal.db)
    assert found.count == many
    assert max(len(points) for points in (*found.losses.values(), *found.accuracies.values(), found.patches)) <= 241
    assert found.accuracies["task"][-1][0] == last + many
    assert {point.value for point in found.losses["task_loss"]} == {0.5}
    tags = [one for one in scalars(journal.db, 1000) if one.tag == "loss/task"]
    assert 500 < len(tags) <= 1000
    assert tags[-1].row == last + many


def test_rolled_back_and_replaced_versions_are_counted_apart(told: Learner):
    found = read_fates(ReadJournal(told.settings.data / "learner.db").db)
    assert found.undone > 0 and found.replaced == 0
    assert found.decisions[0].decision == "rollback" and found.decisions[0].why == HOSTILE
    assert sum(count for _, count in found.set_aside) == one(told, "SELECT count(*) FROM feedback WHERE state = 7")


def test_votes_over_time_sum_to_all_feedback(told: Learner):
    found = read_people(ReadJournal(told.settings.data / "learner.db").db)
    assert sum(map(sum, found.over_time.values())) == found.count == one(told, "SELECT count(*) FROM feedback")
    assert found.judges == 5  # three, the hostile one and one more


def test_a_folder_without_a_learner_and_one_without_a_judgement_give_a_page_that_says_so(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    write_report(Settings(data=tmp_path / "empty"), tmp_path / "empty.html")
    assert "No learner has run on this data folder" in (tmp_path / "empty.html").read_text()
    young = Learner(tmp_path / "young")
    young.close()
    write_report(young.settings, tmp_path / "young.html")
    page = (tmp_path / "young.html").read_text()
    assert all(f'<section id="{name}"' in page for name in CHAPTERS)
    assert "There is one version only" in page
    assert page.count("Nothing yet.") == len(CHAPTERS) - 1  # version 1 is there


def test_the_command_says_where_the_page_is_and_refuses_a_folder_that_is_none(
    told: Learner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "--data", str(told.settings.data), "--output", str(tmp_path / "here.html"), "--no-evaluation"])
    assert ended.value.code == 0
    assert f"The report is in {tmp_path / 'here.html'}" in capsys.readouterr().out
    assert '<section id="before-after"' not in (tmp_path / "here.html").read_text()
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "--data", str(tmp_path / "none")])
    assert ended.value.code == 2
    assert "there is no data folder" in capsys.readouterr().err
