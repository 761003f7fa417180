"""DOOR: the tables of a run (outcomes.csv + .parquet, fits.csv) and run.json, each written in one piece."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

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

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_outcomes(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write outcomes.parquet with texts as they are, and outcomes.csv with spreadsheet formulas disarmed."""
    rows = [dataclasses.asdict(outcome) for outcome in outcomes]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table = table.astype({"record": "int64", "seconds": "float64"})
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomically(folder / "outcomes.parquet", buffer.getvalue())
    write_csv(folder / "outcomes.csv", COLUMNS, ([row[name] for name in COLUMNS] for row in rows))


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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part. One writer per folder."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
