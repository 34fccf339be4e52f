"""`liveloop learn`: hands in a file of labelled rows. Knows the client and the terminal; what is learnt is the loop's business."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveloop.addresses import GrpcPort, connect

if TYPE_CHECKING:
    from liveloop.client import Client
    from liveloop.rows import Row
    from liveloop.v1.inference_pb2 import ExampleAck

_SHOWN = 5
"""Refusals that are told one by one."""


class Source(StrEnum):
    """What kind of judge labelled the rows."""

    human = "human"
    expert = "expert"
    code = "code"
    implicit = "implicit"


@dataclass(slots=True)
class Tally:
    """What became of the rows so far."""

    accepted: int = 0
    duplicate: int = 0
    refused: list[str] = field(default_factory=list)  # why, one sentence a row

    def count(self, lines: Sequence[int], acks: Sequence[ExampleAck]) -> None:
        """Add a batch; `lines` are where its rows stand in the file."""
        from liveloop.v1 import inference_pb2

        for line, ack in zip(lines, acks, strict=True):
            if ack.status == inference_pb2.ACK_STATUS_REJECTED:
                self.refused.append(f"line {line}: {ack.field.rpartition('.')[2]}: {ack.reason}")
            elif ack.status == inference_pb2.ACK_STATUS_DUPLICATE:
                self.duplicate += 1
            else:
                self.accepted += 1


def learn(
    file: Annotated[Path, typer.Argument(help="Columns text and label; optional id, user and time. .csv, .tsv, .jsonl or .parquet.")],
    source: Annotated[Source, typer.Option(help="Who labelled: expert and code need a key with the scope feedback.")] = Source.human,
    grpc_port: GrpcPort = None,
) -> None:
    """Hand in labelled rows that no answer preceded; the same rows again change nothing. Exit code 1 where some were refused."""
    from liveloop import report
    from liveloop.rows import read_rows

    total = sum(1 for _ in read_rows(file))  # the whole file can be read before its first row is sent
    tally = Tally()
    try:
        with connect(grpc_port) as client, report.Bar(total) as bar:
            for count in _hand_in(client, read_rows(file), source, tally):
                bar.advance(count)
    except KeyboardInterrupt:
        sys.stderr.write("liveloop: stopped; run it again for the rest: what is in counts once\n")
        raise typer.Exit(130) from None
    finally:
        report.learnt(tally.accepted, tally.duplicate, len(tally.refused), tally.refused[:_SHOWN])
    if tally.refused:
        raise typer.Exit(1)


def _hand_in(client: Client, rows: Iterator[tuple[int, Row]], source: Source, tally: Tally) -> Iterator[int]:
    """Send the rows in batches; how many each batch had."""
    from liveloop.rows import BATCH

    while batch := list(islice(rows, BATCH)):
        acks = client.learn((row for _, row in batch), source=source.value)
        tally.count([line for line, _ in batch], acks)
        yield len(batch)
