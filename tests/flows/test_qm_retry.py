"""What failed in QM for a reason that may pass is tried again by `parmflow retry`, with more room."""

import csv
import sqlite3

from typer.testing import CliRunner

from flows.cli import app


def parmflow(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_ligand_whose_qm_ran_out_of_time_can_be_retried(tmp_path, model_folder):
    """Ten milliseconds per calculation: the row says `time` at stage qm; `retry` takes it up and gives twice
    the time; the history keeps every try.
    """
    library = tmp_path / "one.smi"
    library.write_text("CO methanol\n")
    config = tmp_path / "hasty.toml"
    config.write_text("[qm]\nspec = 'fast'\nn_points = 3\nseconds_per_job = 0.01\n")
    out, store = tmp_path / "out", tmp_path / "store"
    first = parmflow(
        *("refine", library, "--out", out, "--store", store, "--model", model_folder, "--config", config)
    )
    assert first.exit_code == 3, first.output
    with (out / "outcomes.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["status"], row["stage"], row["kind"]) == ("failed", "qm", "time")
    again = parmflow("retry", out)
    assert "1 failed records are tried again" in again.stderr
    with sqlite3.connect(store / "qm.sqlite") as database:
        messages = [text for (text,) in database.execute("SELECT message FROM attempts ORDER BY number")]
    assert len(messages) >= 6
    assert all("after its limit of 0.01 s" in text for text in messages[:3])
    assert all("after its limit of 0.02 s" in text for text in messages[3:6])
