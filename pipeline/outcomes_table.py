"""DOOR: the tables of a run (outcomes.csv + .parquet, fits.csv) and run.json, each written in one piece."""

import codecs
import contextlib
import csv
import dataclasses
import io
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.outcome import Outcome

COLUMNS = ("record", "name", "id", "folder", "status", "stage", "kind", "message", "seconds")
FIT_COLUMNS = (
    "record",
    "name",
    "id",
    "kept",
    "n_qm",
    "n_qm_failed",
    "energy_rmse_before",
    "energy_rmse_after",
    "force_rmse_before",
    "force_rmse_after",
)

_SCHEMA = pa.schema(
    [(name, {"record": pa.int64(), "seconds": pa.float64()}.get(name, pa.string())) for name in COLUMNS]
)
_ROWS_AT_ONCE = 5000
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_outcomes(outcomes: Iterable[Outcome], folder: Path) -> None:
    """Write outcomes.parquet with texts as they are, and outcomes.csv with spreadsheet formulas disarmed.

    Row by row, a few thousand in memory.
    """
    rows = iter(outcomes)
    with (
        _in_one_piece(folder / "outcomes.parquet") as parquet,
        _in_one_piece(folder / "outcomes.csv") as csv_file,
        pq.ParquetWriter(parquet, _SCHEMA) as table,
    ):
        writer = csv.writer(codecs.getwriter("utf-8")(csv_file), lineterminator="\n")
        writer.writerow(COLUMNS)
        while some := [dataclasses.asdict(outcome) for outcome in islice(rows, _ROWS_AT_ONCE)]:
            table.write_table(pa.Table.from_pylist(some, schema=_SCHEMA))
            writer.writerows([_cell(row[name]) for name in COLUMNS] for row in some)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV table in one piece; a text that a spreadsheet would run as a formula gets a quote first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    write_atomically(path, text.getvalue().encode())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return str(value)


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one piece, keys sorted."""
    write_atomically(path, (json.dumps(value, indent=2, sort_keys=True, default=str) + "\n").encode())


PARTS = ".*.part"
"""what a killed writer leaves in its folder"""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one piece: readers see the old or the new; of two writers at once, the later wins."""
    with _in_one_piece(path) as file:
        file.write(content)


@contextlib.contextmanager
def _in_one_piece(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its name when the block ends well."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
