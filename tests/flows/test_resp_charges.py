"""Charges fitted to the ligands' own potentials: refine --charges resp."""

import csv

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.qm_only import fill_store
from flows.request import Request, settings_from
from pipeline.campaign import Silent
from pipeline.export.parameters_json import read_parametrized_json
from pipeline.store import QMStore


@pytest.fixture
def resp(tmp_path, fast):
    """Settings of a quick refinement with RESP charges."""
    fast.write_text(f"charges = 'resp'\n{fast.read_text()}")
    return fast


@pytest.fixture
def refine(tmp_path, model_folder, resp):
    """Run refine on a library; result, outcome rows, the folder."""

    def run(library, out):
        arguments = ["refine", library, "--out", out, "--model", model_folder, "--config", resp]
        arguments += ["--store", tmp_path / "store", "--formats", "openmm"]
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result, list(csv.DictReader((out / "outcomes.csv").open()))

    return run


# Cornell et al., J. Am. Chem. Soc. 1993, 115, 9620 (methanol) and Amber's acetate, e; geometries differ.
PUBLISHED = {"methanol": {6: (0.12,), 8: (-0.65,)}, "acetate": {8: (-0.82, -0.82)}}


@pytest.mark.pyscf
def test_charges_are_those_of_the_potentials(tmp_path, refine):
    """Methanol and acetate: near the published charges (0.12 e: another geometry), exact in sum, equal where
    the graph is; the second methanol has the first one's in its own order. What was paid for is kept.
    """
    library = tmp_path / "library.smi"
    library.write_text("CO methanol\nCC(=O)[O-] acetate\n[H]OC methanol-again\n")
    result, rows = refine(library, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "hf/6-31g*" in result.stderr
    assert "trained beside the model's own charges" in result.stderr
    files = [tmp_path / "out" / row["folder"] / "parameters.json" for row in rows]
    made = [read_parametrized_json(file.read_text()) for file in files]
    for one, row, total in zip(made, rows, (0, -1, 0), strict=True):
        charges, numbers = one.parameters.charge, one.topology.atomic_numbers
        assert abs(charges.sum() - total) < 1e-9
        for number, published in PUBLISHED.get(row["name"], {}).items():
            np.testing.assert_allclose(charges[numbers == number], published, atol=0.12)
        assert dict(one.provenance)["charges"] == "resp"
        for symmetric in (charges[numbers == 8], _on_carbon(one)):
            assert np.ptp(symmetric) < 1e-12
    numbers = [one.topology.atomic_numbers for one in made]
    assert numbers[0].tolist() != numbers[2].tolist()
    assert sorted(made[0].parameters.charge) == sorted(made[2].parameters.charge)
    with QMStore(tmp_path / "store" / "qm.sqlite") as store:
        drivers = [entry.record.spec.driver for _, entry in store.entries()]
    assert drivers.count("esp") == 2  # one conformer each
    again, _ = refine(library, tmp_path / "elsewhere")
    assert "nothing to compute" in again.stderr


def _on_carbon(one):
    """Charges of the hydrogens on carbon."""
    bonds = one.topology.bonds
    numbers = one.topology.atomic_numbers
    ends = np.concatenate([bonds, bonds[:, ::-1]])
    return one.parameters.charge[[i for i, j in ends if numbers[i] == 1 and numbers[j] == 6]]


@pytest.mark.pyscf
def test_the_store_can_be_filled_before(tmp_path, model_folder, resp):
    """`parmflow qm` with these settings computes references and potentials."""
    library = tmp_path / "library.smi"
    library.write_text("C methane\n")
    filled = fill_store(
        Request(
            command="refine",
            libraries=(library,),
            out=tmp_path,
            store=str(tmp_path / "store"),
            settings=settings_from(resp, {"model": str(model_folder)}),
        ),
        Silent(),
    )
    assert (filled.n_tasks, filled.n_results, filled.failed) == (6, 6, ())


@pytest.mark.pyscf
def test_an_element_without_functions_is_refused_before_any_qm(tmp_path, refine, resp):
    """6-31G* has no iodine: at that level the ligand's row says so by its name, and nothing was computed for
    it. Its potential alone could be computed, with another's functions (`pipeline.qm.levels.STAND_INS`).
    """
    resp.write_text(resp.read_text().replace("'fast'", "'hf/6-31g*'").replace('"fast"', '"hf/6-31g*"'))
    library = tmp_path / "library.smi"
    library.write_text("CI iodomethane\n")
    _, rows = refine(library, tmp_path / "out")
    assert [(row["status"], row["stage"], row["kind"]) for row in rows] == [("failed", "qm", "input")]
    assert "iodomethane: 6-31g* has no functions for element 53; take another level" in rows[0]["message"]
    with QMStore(tmp_path / "store" / "qm.sqlite") as store:
        assert store.attempts() == ()


def test_assign_says_that_it_cannot(tmp_path, model_folder, library):
    """Without QM there is no potential: a usage error that leaves no folder."""
    arguments = ["assign", library, "--out", tmp_path / "out", "--model", model_folder, "--charges", "resp"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2
    assert "computes no QM" in result.stderr
    assert not (tmp_path / "out").exists()
