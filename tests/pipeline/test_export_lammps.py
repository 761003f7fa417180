"""LAMMPS files against hand calculations and the format's own rules."""

import dataclasses

import numpy as np
import pytest

from pipeline.errors import ExportError
from pipeline.export.lammps import BOX_MARGIN, write_lammps_data, write_lammps_input
from pipeline.readback.lammps import check_lammps
from pipeline.schema import Parametrized
from pipeline.verify import build_reference


@pytest.fixture
def acetate(build_ligand, parametrize_ligand) -> Parametrized:
    return parametrize_ligand(build_ligand("CC(=O)[O-]"))


def _rows(text: str, title: str) -> list[list[str]]:
    return [line.split() for line in text.split(f"{title}\n\n")[1].split("\n\n")[0].splitlines()]


def test_harmonic_constants_are_halved(acetate):
    """K (r - r0)^2 has no 1/2; angles in degrees; every digit to 1e-11."""
    text, parameters = write_lammps_data(acetate), acetate.parameters
    bond = _rows(text, "Bond Coeffs # harmonic")[0]
    assert [float(word) for word in bond[1:]] == pytest.approx(
        [parameters.bond_k[0] / 2, parameters.bond_length[0]], rel=1e-11
    )
    angle = _rows(text, "Angle Coeffs # harmonic")[0]
    assert [float(word) for word in angle[1:]] == pytest.approx(
        [parameters.angle_k[0] / 2, np.degrees(parameters.angle_theta[0])], rel=1e-11
    )


def test_dihedrals_are_signed_cosines(acetate):
    """K 1 n, one row per quadruple and periodicity; impropers in a section of their own, centre first."""
    text = write_lammps_data(acetate)
    coefficients = _rows(text, "Dihedral Coeffs # harmonic")
    assert {row[2] for row in coefficients} == {"1"}
    assert {row[3] for row in coefficients} == set("123456")
    assert any(float(row[1]) < 0 for row in coefficients)
    assert len(_rows(text, "Dihedrals")) == 6 * len(acetate.topology.propers)
    impropers = _rows(text, "Impropers")
    assert {int(row[2]) - 1 for row in impropers} == {acetate.topology.impropers[0, 1]}
    assert len(impropers) == 6


def test_the_box_holds_every_atom(acetate):
    """Ten angstrom around the ligand, wherever its record put it."""
    moved = dataclasses.replace(acetate, coords=acetate.coords + np.array([500.0, -500.0, 0.0]))
    for axis, line in enumerate(
        line for line in write_lammps_data(moved).splitlines() if line.endswith("hi")
    ):
        low, high = map(float, line.split()[:2])
        assert low + BOX_MARGIN == pytest.approx(moved.coords[:, axis].min(), abs=1e-4)
        assert high - BOX_MARGIN == pytest.approx(moved.coords[:, axis].max(), abs=1e-4)


def test_without_coordinates_there_is_no_data_file(acetate):
    """LAMMPS keeps topology and geometry in one file."""
    with pytest.raises(ExportError, match="no coordinates"):
        write_lammps_data(dataclasses.replace(acetate, coords=None))


@pytest.mark.parametrize("name", ["", "x &", "é\n水", "x" * 300, "# 3 atoms", "Atoms"])
def test_a_name_stays_in_its_line(acetate, name, tmp_path):
    """Title and comments never continue a line nor pass for a section."""
    ligand = dataclasses.replace(acetate.ligand, name=name)
    named = dataclasses.replace(acetate, ligand=ligand, provenance=(("source", name),))
    (tmp_path / "ligand.data").write_text(write_lammps_data(named))
    (tmp_path / "ligand.in").write_text(write_lammps_input(named))
    assert not any(line.endswith("&") for line in write_lammps_input(named).splitlines())
    assert check_lammps(tmp_path / "ligand.in", build_reference(named))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("units real", "units metal"),
        ("dihedral_style harmonic", "dihedral_style opls"),
        ("run 0", "run 0\nset atom 1 charge 0.0"),
        ("special_bonds lj 0.0", "special_bonds dihedral yes lj 0.0"),
        ("pair_style lj/cut/coul/cut", "pair_style lj/cut/coul/long"),
        ("units real", ""),
    ],
)
def test_our_reader_refuses_what_it_does_not_know(acetate, old, new, tmp_path):
    """A script with another style, or a command more or less, is not read as if it were ours."""
    (tmp_path / "ligand.data").write_text(write_lammps_data(acetate))
    text = write_lammps_input(acetate)
    assert old in text
    (tmp_path / "ligand.in").write_text(text.replace(old, new))
    with pytest.raises((ValueError, KeyError)):
        check_lammps(tmp_path / "ligand.in", build_reference(acetate))
