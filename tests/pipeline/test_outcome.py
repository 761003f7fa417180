"""Outcomes and their tables."""

import csv
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from pipeline.errors import ChildError, QMError
from pipeline.outcome import Delivered, Outcome, failure_from_exception
from pipeline.outcomes_table import COLUMNS, write_atomically, write_outcomes

DANGEROUS_NAMES = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\tx",
    'a,"b"\nc',
    "<script>alert(1)</script>",
]


def make_outcome(number, name):
    return Outcome(
        record=number,
        name=name,
        id=f"x-{number}",
        folder="",
        status="failed",
        stage="standardise",
        kind="salt",
        message="two fragments",
        seconds=0.1,
    )


def test_no_cell_of_the_csv_starts_a_formula_and_the_parquet_keeps_names_as_they_are(tmp_path):
    """Spreadsheets run cells that start with = + - @; the CSV quotes them, the parquet has the original."""
    write_outcomes([make_outcome(n, name) for n, name in enumerate(DANGEROUS_NAMES, start=1)], tmp_path)
    with (tmp_path / "outcomes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(DANGEROUS_NAMES)
    for row, name in zip(rows, DANGEROUS_NAMES, strict=True):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in row.values())
        assert row["name"].removeprefix("'") == name
    table = pd.read_parquet(tmp_path / "outcomes.parquet")
    assert table["name"].tolist() == DANGEROUS_NAMES
    assert tuple(table.columns) == COLUMNS


def test_an_empty_table_has_its_columns_and_types(tmp_path):
    """A library without records gives readable tables with nine columns and no row."""
    write_outcomes([], tmp_path)
    table = pd.read_parquet(tmp_path / "outcomes.parquet")
    assert tuple(table.columns) == COLUMNS
    assert table["record"].dtype == "int64"


def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_no_debris(tmp_path):
    """When the content is not writable the earlier file is still there, alone."""
    path = tmp_path / "run.json"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text is not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """Many threads write one file at a time: none fails, and a whole content of one of them remains."""
    path = tmp_path / "place.json"
    contents = [bytes([65 + n]) * 5000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            list(pool.map(lambda content: write_atomically(path, content), contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_our_errors_keep_their_kind_and_foreign_ones_are_named_unexpected():
    """QMError(scf, retryable) keeps both; a KeyError becomes `unexpected` and names its type."""
    ours = failure_from_exception(QMError("no", kind="scf", retryable=True), ligand="x", stage="qm")
    assert (ours.kind, ours.retryable, ours.message) == ("scf", True, "no")
    foreign = failure_from_exception(KeyError("y"), ligand="x", stage="predict")
    assert (foreign.kind, foreign.retryable) == ("unexpected", False)
    assert foreign.message == "KeyError: 'y'"
    assert failure_from_exception(ChildError("died"), ligand="x", stage="qm").retryable


def test_a_delivered_ligand_outside_the_domain_says_so():
    """The doubt of the model becomes the message of the outcome; without doubt there is none."""
    assert Delivered(folder="f", doubt="").warning == ""
    assert Delivered(folder="f", doubt="odd").warning == "outside the model's domain: odd"
    assert Delivered(folder="f", doubt="", note="averaged").warning == "averaged"
    both = Delivered(folder="f", doubt="odd", note="averaged").warning
    assert both == "averaged; outside the model's domain: odd"
