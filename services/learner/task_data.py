"""Labelled rows: read from csv, jsonl or parquet, split, and kept in the data folder. Knows files and labels, no model."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveloop.errors import Misconfigured

# Shares of the task data that are held out where no files of their own are given.
_TEST_SHARE = 0.1
_VALIDATION_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Row:
    """A text and its label."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class TaskData:
    """The rows to train on, to choose by, and to report on; no text is in two of them."""

    train: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [*self.train, *self.validation, *self.test]


def read_rows(path: Path, *, text_column: str, label_column: str) -> list[Row]:
    """Read a .csv, .jsonl or .parquet file. Raises Misconfigured with one sentence on what is wrong with it."""
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise Misconfigured(f"{path} is not a .csv, .jsonl or .parquet file")
    try:
        table = readers[path.suffix.lower()](path, [text_column, label_column])
    except OSError as error:
        raise Misconfigured(f"the data file {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, csv.Error) as error:  # not UTF-8, not JSON, not parquet
        raise Misconfigured(f"the data file {path} cannot be read: {str(error).splitlines()[0]}") from error
    rows = [Row(str(text).strip(), str(label).strip()) for text, label in table if text is not None and label is not None]
    rows = [row for row in rows if row.text and row.label]
    if not rows:
        raise Misconfigured(f"the data file {path} has no row with both a text and a label")
    return rows


def _read_csv(path: Path, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        _check_columns(path, columns, reader.fieldnames or [])
        return [tuple(row[column] for column in columns) for row in reader]


def _read_jsonl(path: Path, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise Misconfigured(f"line {number} of {path} is not JSON") from error
            if not isinstance(row, dict):
                raise Misconfigured(f"line {number} of {path} is not a JSON object")
            _check_columns(f"line {number} of {path}", columns, list(row))
            found.append(tuple(row[column] for column in columns))
    return found


def _read_parquet(path: Path, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        _check_columns(path, columns, file.schema_arrow.names)
        table = file.read(columns=list(columns))
    return list(zip(*(table.column(column).to_pylist() for column in columns), strict=True))


def _check_columns(where: Path | str, wanted: Sequence[str], there: Sequence[str]) -> None:
    for column in wanted:
        if column not in there:
            raise Misconfigured(
                f"{where} has no column {column!r}; it has {', '.join(there) or 'none'} (see --text-column and --label-column)"
            )


def check_labels(rows: Sequence[Row], labels: Sequence[str], where: Path | str) -> list[Row]:
    """The rows with their labels as in `labels`; numbers 0 to K-1 count as positions where no label is a number. Raises Misconfigured."""
    there = {row.label for row in rows}
    positions = {str(position): label for position, label in enumerate(labels)}
    if there <= positions.keys() and not there & set(labels):
        return [Row(row.text, positions[row.label]) for row in rows]
    if unknown := sorted(there - set(labels)):
        raise Misconfigured(
            f"{where} has the labels {_some(unknown)}, which are not among {_some(labels)}; name the right ones with --labels"
        )
    return list(rows)


def check_trainable(rows: Sequence[Row]) -> None:
    """Raises Misconfigured where there is nothing to tell apart."""
    there = sorted({row.label for row in rows})
    if len(there) < 2:
        raise Misconfigured(
            f"every row of the task data has the label {there[0]}: there is nothing to learn" if there else "the task data is empty"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


def complete(train: Sequence[Row], validation: Sequence[Row] | None, test: Sequence[Row] | None) -> TaskData:
    """Cut the held-out parts that are not given (None) from `train`: a tenth each, of every label, by the hash of the text.

    A text stands in one part only; one that is in a given part is dropped from the others, test before validation before train.
    """
    cut = _Cut(train)
    test = cut.take(_TEST_SHARE) if test is None else list(test)
    validation = cut.take(_VALIDATION_SHARE) if validation is None else list(validation)
    validation = _without(validation, test)
    return TaskData(train=_without(_without(train, test), validation), validation=validation, test=test)


class _Cut:
    """Takes shares off the texts of each label, in the order of their hashes."""

    def __init__(self, rows: Sequence[Row]) -> None:
        groups: dict[str, list[Row]] = {}
        for row in sorted(rows, key=lambda row: (_digest(row.text), row.text)):
            groups.setdefault(_same(row.text), []).append(row)
        self._strata: dict[str, list[list[Row]]] = {}
        for group in groups.values():
            self._strata.setdefault(group[0].label, []).append(group)
        self._sizes = {label: len(groups) for label, groups in self._strata.items()}

    def take(self, share: float) -> list[Row]:
        """About `share` of each label's texts, at least one where three are left; with all rows of those texts."""
        taken: list[Row] = []
        for label, groups in self._strata.items():
            count = max(round(share * self._sizes[label]), 1) if len(groups) >= 3 else 0
            taken += [row for group in groups[:count] for row in group]
            del groups[:count]
        return taken


def _without(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    taken = {_same(row.text) for row in others}
    return [row for row in rows if _same(row.text) not in taken]


def _same(text: str) -> str:
    """Texts that differ only in case and white space are duplicates."""
    return " ".join(text.casefold().split())


def _digest(text: str) -> bytes:
    return hashlib.sha256(_same(text).encode()).digest()


def write_task(folder: Path, data: TaskData) -> None:
    """Write train.jsonl, validation.jsonl and test.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation", "test"):
        lines = [json.dumps({"text": row.text, "label": row.label}) + "\n" for row in getattr(data, name)]
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
