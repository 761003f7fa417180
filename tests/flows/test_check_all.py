"""`--check all`: GROMACS and LAMMPS weigh their files; a missing program is said before the run."""

import json
from shutil import which

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipeline.deliver import FILES

PROGRAMS = [kind.engine for kind in FILES if kind.engine]


def _assign(library, out, model_folder, *options):
    arguments = ("assign", library, "--out", out, "--model", model_folder, *options)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.skipif(not all(map(which, PROGRAMS)), reason=f"not all installed: {', '.join(PROGRAMS)}")
def test_check_all_adds_the_engines_reports(tmp_path, model_folder):
    """check.json names both programs beside the in-process readers."""
    library = tmp_path / "one.smi"
    library.write_text("CC(=O)[O-] acetate\n")
    out = tmp_path / "out"
    result = _assign(library, out, model_folder, "--check", "all")
    assert result.exit_code == 0, result.output
    check = json.loads(next(out.glob("ligands/*/*/check.json")).read_text())
    readers = {(entry["file"], entry["reader"].split()[0]) for entry in check["checks"]}
    assert {("ligand.top", "GROMACS"), ("ligand.in", "LAMMPS"), ("ligand.top", "OpenMM")} <= readers


def test_a_missing_program_stops_the_command_before_the_run(tmp_path, library, model_folder, monkeypatch):
    """Without the programs `--check all` is a usage error that names them; nothing is begun."""
    monkeypatch.setenv("PATH", str(tmp_path))
    result = _assign(library, tmp_path / "out", model_folder, "--check", "all")
    assert result.exit_code == 2
    assert all(program in result.stderr for program in PROGRAMS)
    assert not (tmp_path / "out").exists()


def test_a_program_is_not_missed_when_its_format_is_not_asked(tmp_path, library, model_folder, monkeypatch):
    """`--check all --formats openmm` needs neither GROMACS nor LAMMPS."""
    monkeypatch.setenv("PATH", str(tmp_path))
    options = ("--check", "all", "--formats", "openmm")
    result = _assign(library, tmp_path / "out", model_folder, *options)
    assert result.exit_code == 3, result.output
