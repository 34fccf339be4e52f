"""Labelled rows, and the files that hold them. Knows file formats and what an example needs; sends nothing."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from liveloop.errors import InvalidInput, Misconfigured
from liveloop.v1 import inference_pb2
from liveloop.v1.events_pb2 import Source

EXAMPLE = "example:"
"""What the name of a labelled row begins with, where a feedback has its prediction's id."""
BATCH = 256
"""Rows in one call at most."""
COLUMNS = ("text", "label", "id", "user", "time")
"""The first two must be there; others of the file are passed over."""
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled row."""

    text: str
    label: str
    id: str = ""  # at most 64 bytes; the same row counts once under it
    user: str = ""  # who labelled it
    time: datetime | None = None  # when

    def example(self, source: Source.ValueType) -> inference_pb2.LabelledExample:
        """The row as it is sent. Without an id of its own it gets one by its content, so that handing it in twice trains once."""
        example = inference_pb2.LabelledExample(id=self.id or _id_of(self), label=self.label, user=self.user, source=source)
        example.input.text = self.text
        if self.time is not None:
            example.created_at.FromDatetime(self.time.astimezone(UTC))
        return example


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a .csv, .tsv, .jsonl or .parquet file, each with its line (in a parquet file its row), from 1.

    Raises:
        InvalidInput: of another kind, a column is missing, or a line cannot be used; names the line.
    """
    kind = path.suffix.lower()
    if kind not in (*_SEPARATORS, ".jsonl", ".parquet"):
        raise InvalidInput(f"{path}: a file of rows ends in .csv, .tsv, .jsonl or .parquet")
    lines = _parquet(path) if kind == ".parquet" else _jsonl(path) if kind == ".jsonl" else _separated(path, _SEPARATORS[kind])
    try:
        for number, values in lines:
            yield number, _row(values, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8: {error.reason}") from error


def _row(values: Mapping[str, Any], at: str) -> Row:
    fields = {name: values.get(name) for name in COLUMNS}
    for name in ("text", "label"):
        if not isinstance(fields[name], str) or not fields[name]:
            raise InvalidInput(f"{at}: {name} is {'missing' if fields[name] in (None, '') else 'not a string'}", field=name)
    said = {name: "" if fields[name] is None else str(fields[name]) for name in COLUMNS[:4]}
    for name, value in said.items():
        if not _is_unicode(value):
            raise InvalidInput(f"{at}: {name} holds half of a surrogate pair, which is not text", field=name)
    return Row(**said, time=_time(fields["time"], at))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time(value: Any, at: str) -> datetime | None:
    """A time in ISO 8601, UTC where it names no zone, or in Unix seconds."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, datetime):
            found = value
        elif isinstance(value, int | float) or str(value).replace(".", "", 1).isdecimal():
            return datetime.fromtimestamp(float(value), UTC)
        else:
            found = datetime.fromisoformat(str(value))
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(f"{at}: {value!r} is not a time like 2026-01-31T12:00:00Z", field="time") from error


def _separated(path: Path, separator: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader, line = csv.DictReader(file, delimiter=separator, strict=True), 1  # of a row's beginning: a quoted text may go over several
        try:
            _check_columns(path, reader.fieldnames or ())
            line = reader.line_num + 1
            for values in reader:
                yield line, values
                line = reader.line_num + 1
        except csv.Error as error:
            raise InvalidInput(f"{path}, line {line}: {error}") from error


def _jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    values = json.loads(line)
                except ValueError as error:
                    raise InvalidInput(f"{path}, line {number}: not JSON: {error}") from error
                if not isinstance(values, dict):
                    raise InvalidInput(f"{path}, line {number}: not a JSON object")
                yield number, values


def _parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise Misconfigured(f"{path}: reading parquet needs pyarrow; without it, .csv, .tsv and .jsonl are read") from error
    file = parquet.ParquetFile(path)
    _check_columns(path, file.schema_arrow.names)
    number = 0
    for batch in file.iter_batches(BATCH, columns=[name for name in COLUMNS if name in file.schema_arrow.names]):
        for values in batch.to_pylist():
            number += 1
            yield number, values


def _check_columns(path: Path, names: Iterable[str]) -> None:
    missing = [name for name in COLUMNS[:2] if name not in names]
    if missing:
        raise InvalidInput(f"{path}: there is no column {' and no column '.join(missing)}; the columns are {', '.join(names) or 'none'}")


def _id_of(row: Row) -> str:
    content = json.dumps([row.text, row.label, row.user]).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
