"""A refinement that stops at its QM budget and goes on another time."""

import csv

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipeline.store import QMStore


@pytest.fixture
def refine(tmp_path, model_folder):
    """Run refine with these QM settings, by GFN2-xTB; the outcome rows."""

    def run(smiles, out, **qm):
        library, config = tmp_path / "library.smi", tmp_path / "settings.toml"
        library.write_text(smiles)
        lines = [f"{name} = {value!r}" for name, value in {"spec": "fast", **qm}.items()]
        config.write_text("\n".join(["[qm]", *lines, "[fine_tune]", "steps = 5"]).replace("True", "true"))
        arguments = ["refine", library, "--out", tmp_path / out, "--store", tmp_path / "store"]
        arguments += ["--config", config, "--model", model_folder, "--formats", "openmm"]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code in (0, 3), result.output
        return list(csv.DictReader((tmp_path / out / "outcomes.csv").open()))

    return run


STOP = {"budget_seconds": 0.001, "over_budget": "stop"}


def _endings(rows):
    return [(row["status"], row["stage"], row["kind"]) for row in rows]


def test_optimisations_wait_for_budget(tmp_path, refine):
    """Conformers that the budget does not pay are not optimised; the same folder is gone on with."""
    smiles = "CO methanol\nC=O formaldehyde\n"
    rows = refine(smiles, "out", optimise_spec="fast", **STOP)
    assert _endings(rows) == [("failed", "conformers", "budget")] * 2
    assert "repeat the command" in rows[0]["message"]
    with QMStore(tmp_path / "store" / "qm.sqlite") as store:
        assert store.attempts() == ()
    rows = refine(smiles, "out", optimise_spec="fast")  # without a budget
    assert [row["status"] for row in rows] == ["ok", "ok"]


def test_torsion_drives_wait_for_budget(refine):
    """References that the store has cost nothing; the drive of butane waits, ethane has none to wait for.

    The plan of two levels foresees the drives before any other geometry is made."""
    smiles = "CCCC butane\nCC ethane\n"
    refine(smiles, "before", optimise_spec="fast")
    drives = {"torsion_drives": True, "drive_spacing": 90, "optimise_spec": "fast"}
    rows = refine(smiles, "out", **drives, **STOP)
    assert _endings(rows) == [("failed", "qm", "budget"), ("ok", "", "")]
    rows = refine(smiles, "out", **drives, over_budget="stop")
    assert [row["status"] for row in rows] == ["ok", "ok"]
