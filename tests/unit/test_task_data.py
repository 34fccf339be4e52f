"""Labelled rows: what is read, what is refused with which sentence, and how the held-out parts are cut."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveloop.errors import Misconfigured
from services.learner.task_data import Row, check_labels, check_trainable, complete, read_rows, write_task

ROWS = [Row("good, very good", "yes"), Row("bad", "no"), Row("line\nbreak and \u2028 separator", "yes")]


def _write(path: Path, rows: list[Row], text: str = "text", label: str = "label") -> Path:
    if path.suffix == ".csv":
        lines = [f"{text},{label}\r\n", *(f'"{row.text}",{row.label}\r\n' for row in rows)]
        path.write_text("".join(lines), "utf-8-sig", newline="")
    elif path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps({text: row.text, label: row.label, "more": 1}, ensure_ascii=False) + "\n" for row in rows), "utf-8"
        )
    else:
        pyarrow.parquet.write_table(pyarrow.table({text: [row.text for row in rows], label: [row.label for row in rows]}), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str):
    path = _write(tmp_path / f"data{suffix}", ROWS, text="review", label="verdict")
    assert read_rows(path, text_column="review", label_column="verdict") == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_column_is_named_with_the_columns_there_are(tmp_path: Path, suffix: str):
    path = _write(tmp_path / f"data{suffix}", ROWS, text="review")
    with pytest.raises(Misconfigured, match=r"no column 'text'; it has review, label"):
        read_rows(path, text_column="text", label_column="label")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_file_is_one_sentence(tmp_path: Path, suffix: str):
    with pytest.raises(Misconfigured, match="cannot be read"):
        read_rows(tmp_path / f"none{suffix}", text_column="text", label_column="label")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("data.txt", b"text", "is not a .csv, .jsonl or .parquet file"),
        ("data.csv", b"", "has no column 'text'; it has none"),
        ("data.csv", b"text,label\n", "no row with both a text and a label"),
        ("data.csv", b"text,label\n\xff\xfe,a\n", "cannot be read"),
        ("data.jsonl", b'{"text": "a", "label": "b"}\nnot json\n', "line 2 of .* is not JSON"),
        ("data.jsonl", b"[1]\n", "line 1 of .* is not a JSON object"),
        ("data.jsonl", b'{"text": "", "label": "b"}\n{"text": "a", "label": null}\n', "no row with both"),
        ("data.parquet", b"not parquet at all", "cannot be read"),
    ],
)
def test_unusable_files_are_refused_with_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Misconfigured, match=sentence) as refusal:
        read_rows(tmp_path / name, text_column="text", label_column="label")
    assert "\n" not in refusal.value.reason


def test_labels_that_do_not_match_are_named():
    with pytest.raises(Misconfigured, match=r"data.csv has the labels maybe, which are not among yes, no"):
        check_labels([Row("a", "maybe"), Row("b", "yes")], ["yes", "no"], "data.csv")


def test_numbers_stand_for_the_labels_positions():
    assert check_labels([Row("a", "1"), Row("b", "0")], ["no", "yes"], "data.csv") == [Row("a", "yes"), Row("b", "no")]


def test_labels_that_are_numbers_stand_for_themselves():
    rows = [Row("a", "1"), Row("b", "2")]
    assert check_labels(rows, ["2", "1"], "data.csv") == rows


def test_one_label_alone_is_nothing_to_learn():
    with pytest.raises(Misconfigured, match="every row of the task data has the label yes"):
        check_trainable([Row("a", "yes"), Row("b", "yes")])


def test_a_tenth_of_every_label_is_held_out_twice():
    rows = [Row(f"text {number}", label) for label, count in (("rare", 20), ("common", 200)) for number in range(count)]
    rows = [Row(f"{row.label} {row.text}", row.label) for row in rows]
    data = complete(rows, None, None)
    assert Counter(row.label for row in data.test) == {"rare": 2, "common": 20}
    assert Counter(row.label for row in data.validation) == {"rare": 2, "common": 20}
    assert Counter(data.rows) == Counter(rows)


def test_the_split_depends_on_the_texts_alone():
    rows = [Row(f"text {number}", "ab"[number % 2]) for number in range(100)]
    assert complete(rows, None, None).test == complete(rows[::-1], None, None).test


@given(st.lists(st.tuples(st.sampled_from(["a", "A ", "b", "c", "d", "e"]), st.sampled_from(["x", "y"])), max_size=40))
def test_no_text_stands_on_two_sides(pairs: list[tuple[str, str]]):
    data = complete([Row(text, label) for text, label in pairs], None, None)
    sides = [{row.text.strip().casefold() for row in part} for part in (data.train, data.validation, data.test)]
    assert sum(len(side) for side in sides) == len(set.union(*sides))
    assert len(data.rows) == len(pairs)


def test_files_that_are_given_stay_whole_and_their_texts_leave_the_training_rows():
    data = complete([Row("A b", "x"), Row("c", "y"), Row("d", "x")], [Row("c", "y"), Row("e", "x")], [Row("a  B", "x")])
    assert data.train == [Row("d", "x")]
    assert data.validation == [Row("c", "y"), Row("e", "x")]
    assert data.test == [Row("a  B", "x")]


def test_what_is_written_is_one_json_object_a_line(tmp_path: Path):
    write_task(tmp_path, complete([], ROWS, []))
    lines = (tmp_path / "validation.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": row.text, "label": row.label} for row in ROWS]
    assert (tmp_path / "train.jsonl").read_text() == ""
