"""library.offxml at the end of a run: there, right, kept, renewed, or a sentence why not."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipeline.export.parameters_json import read_parametrized_json
from pipeline.readback.files import compare_parameters
from pipeline.smirnoff import label, read_smirnoff

LIBRARY = "CCO ethanol\nCC ethane\nOCC ethanol-again\nno-smiles broken\nCC(=O)[O-] acetate\n"


@pytest.fixture
def command(tmp_path, model_folder):
    """assign, with more options, on a library of four good records; formats that are quick to write."""
    library = tmp_path / "some.smi"
    library.write_text(LIBRARY)

    def run(*options):
        arguments = ("assign", library, "--out", tmp_path / "out", "--model", model_folder)
        arguments += ("--formats", "offxml", *options)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def _assert_right(out: Path, n_ligands: int) -> None:
    force_field = read_smirnoff(out / "library.offxml")
    files = sorted(out.glob("ligands/*/*/parameters.json"))
    assert len(files) == n_ligands
    for path in files:
        one = read_parametrized_json(path.read_text())
        compare_parameters(path.name, label(force_field, one.ligand, one.topology), one.parameters)


def test_a_run_ends_with_the_librarys_offxml(command, tmp_path):
    """Every delivered ligand finds its own parameters in it; a second run leaves the file as it is."""
    out = tmp_path / "out"
    assert command().exit_code == 3
    _assert_right(out, 4)
    before = (out / "library.offxml").stat().st_mtime_ns
    assert command().exit_code == 3
    assert (out / "library.offxml").stat().st_mtime_ns == before


def test_a_file_that_is_gone_or_of_another_library_is_written_again(command, tmp_path):
    """Deleted, or a record taken from the library: the next run writes it anew from what was delivered."""
    out = tmp_path / "out"
    command()
    (out / "library.offxml").unlink()
    command()
    _assert_right(out, 4)
    (tmp_path / "some.smi").write_text("CCO ethanol\nOCC ethanol-again\n")
    command()
    _assert_right(out, 2)
    assert "#6X4H3x0:1]~[#6X4H3x0:2" not in (out / "library.offxml").read_text()  # ethane


def test_constraints_are_in_both_files(command, tmp_path):
    """--constraints: library.offxml and each ligand.offxml constrain the bonds to hydrogen."""
    out = tmp_path / "out"
    command("--constraints")
    for path in [out / "library.offxml", *out.glob("ligands/*/*/ligand.offxml")]:
        assert len(read_smirnoff(path).constraints) == 1
    _assert_right(out, 4)


def test_beyond_the_limit_it_is_left_out_with_a_sentence(command, tmp_path):
    """A limit of three for four ligands: no file, the reason; the limit alone computes nothing anew."""
    out, config = tmp_path / "out", tmp_path / "few.toml"
    command()
    folders = {path: path.stat().st_mtime_ns for path in out.glob("ligands/*/*")}
    config.write_text("[export]\nlibrary_offxml_limit = 3\n")
    said = command("--config", config)
    assert "No library.offxml for 4 ligands" in said.stderr
    assert not (out / "library.offxml").exists()
    assert {path: path.stat().st_mtime_ns for path in out.glob("ligands/*/*")} == folders


def test_what_cannot_be_told_apart_fails_no_ligand(command, tmp_path):
    """Ethanol delivered twice with different numbers: no library file, a sentence, all ligands delivered."""
    out = tmp_path / "out"
    command()
    path = next(iter(sorted(out.glob("ligands/*/ethanol-again-*/parameters.json"))))
    document = json.loads(path.read_text())
    for atom in document["atoms"]:
        atom["sigma"] += 0.1
    path.write_text(json.dumps(document))
    (out / "library.offxml").unlink()
    said = command()
    assert said.exit_code == 3
    assert "No library.offxml: ethanol and ethanol-again differ" in said.stderr
    assert not (out / "library.offxml").exists()


def test_without_offxml_there_is_none(command, tmp_path):
    """Only OpenMM's files asked for: no library.offxml."""
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    command("--formats", "openmm")
    assert not (tmp_path / "out" / "library.offxml").exists()
