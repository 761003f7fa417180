"""GROMACS files against hand calculations and the format's own rules."""

import dataclasses
import re

import numpy as np
import openmm
import parmed
import pytest

from pipeline.errors import ExportError
from pipeline.export.atom_types import hash_prefix
from pipeline.export.gromacs import (
    box_side,
    write_atomtypes_itp,
    write_gro,
    write_molecule_itp,
    write_top,
)
from pipeline.readback.gromacs import SingleMoleculeTop
from pipeline.schema import MMParameters, Parametrized


@pytest.mark.parametrize("smiles", ["O", "CC(=O)Nc1ccc(O)cc1", "C[N+](=O)[O-]"])
def test_parmeds_reader_spared_its_copies_builds_the_same_system(
    smiles, tmp_path, build_ligand, parametrize_ligand
):
    """The stock reader copies the molecule twice; both give the same System, to the last digit."""
    parametrized = parametrize_ligand(build_ligand(smiles))
    for name, write in (
        ("ligand.top", write_top),
        ("ligand.itp", write_molecule_itp),
        ("ligand_atomtypes.itp", write_atomtypes_itp),
    ):
        (tmp_path / name).write_text(write(parametrized))
    path = str(tmp_path / "ligand.top")
    systems = [read(path).createSystem() for read in (SingleMoleculeTop, parmed.gromacs.GromacsTopologyFile)]
    assert len({openmm.XmlSerializer.serialize(system) for system in systems}) == 1


def _rows(text: str, name: str, section: int = 0) -> list[list[str]]:
    block = text.split(f"[ {name} ]\n")[section + 1].split("\n\n")[0]
    return [line.split() for line in block.splitlines() if not line.startswith(";")]


@pytest.fixture
def water(build_ligand, parametrize_ligand) -> Parametrized:
    """Water with TIP3P's parameters."""
    parametrized = parametrize_ligand(build_ligand("O"))
    parameters = MMParameters(
        bond_k=[1106.0, 1106.0],
        bond_length=[0.9572, 0.9572],
        angle_k=[200.0],
        angle_theta=[np.radians(104.52)],
        proper_k=[],
        improper_k=[],
        charge=[-0.834, 0.417, 0.417],
        sigma=[3.15061, 1.0, 1.0],
        epsilon=[0.1521, 0.0, 0.0],
    )
    coords = [[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.2399872, 0.92662721, 0.0]]
    return dataclasses.replace(parametrized, parameters=parameters, coords=coords)


def test_water_by_hand(water):
    """nm and kJ/mol: 0.09572 nm, 1106 x 418.4, 200 x 4.184, 3.15061/10, 0.1521 x 4.184."""
    text = write_molecule_itp(water)
    bond, _ = _rows(text, "bonds")
    assert bond[:3] == ["1", "2", "1"]
    assert [float(word) for word in bond[3:]] == pytest.approx([0.09572, 462750.4], rel=1e-11)
    (angle,) = _rows(text, "angles")
    assert angle[:4] == ["2", "1", "3", "1"]
    assert [float(word) for word in angle[4:]] == pytest.approx([104.52, 836.8], rel=1e-11)
    assert [float(row[6]) for row in _rows(text, "atoms")] == [-0.834, 0.417, 0.417]
    oxygen, hydrogen = _rows(write_atomtypes_itp(water), "atomtypes")
    assert oxygen[1:5] == ["8", "15.9990", "0.0", "A"]
    assert [float(word) for word in oxygen[5:]] == pytest.approx([0.315061, 0.6363864], rel=1e-11)
    assert [float(word) for word in hydrogen[5:]] == [0.1, 0.0]
    assert "pairs" not in text
    assert "dihedrals" not in text


def test_gro_columns(water):
    """Fixed columns: residue 1-5, 6-10, name 11-15, number 16-20, then equal columns of nm."""
    title, count, first, _, third, box = write_gro(water).splitlines()
    assert (title, count.strip()) == ("O", "3")
    assert first[:20] == "    1LIG     O1    1"
    assert [float(third[20 + 16 * i : 36 + 16 * i]) for i in range(3)] == [-0.02399872, 0.092662721, 0.0]
    assert [float(word) for word in box.split()] == [20.0] * 3


def test_numbers_keep_ten_digits(build_ligand, parametrize_ligand):
    """1/3 in the parameters comes back to 1e-10, relative."""
    parametrized = parametrize_ligand(build_ligand("CC(=O)[O-]"))
    third = dataclasses.replace(
        parametrized.parameters,
        bond_length=np.full_like(parametrized.parameters.bond_length, 4 / 3),
        proper_k=np.full_like(parametrized.parameters.proper_k, -1 / 3),
    )
    text = write_molecule_itp(dataclasses.replace(parametrized, parameters=third))
    assert float(_rows(text, "bonds")[0][3]) == pytest.approx(4 / 30, rel=1e-10)
    assert float(_rows(text, "dihedrals")[0][6]) == pytest.approx(-4.184 / 3, rel=1e-10)


def test_dihedrals_are_signed_with_phase_zero(build_ligand, parametrize_ligand):
    """Function 9 for propers, 4 for impropers with the centre first; six and two lines per quadruple."""
    parametrized = parametrize_ligand(build_ligand("CC(=O)[O-]"))
    topology, text = parametrized.topology, write_molecule_itp(parametrized)
    propers, impropers = _rows(text, "dihedrals"), _rows(text, "dihedrals", 1)
    assert {row[4] for row in propers} == {"9"}
    assert {row[4] for row in impropers} == {"4"}
    assert {row[5] for row in propers + impropers} == {"0.0"}
    assert any(float(row[6]) < 0 for row in propers)
    assert len(propers) == 6 * len(topology.propers)
    assert [row[7] for row in impropers] == ["1", "2"] * 3
    (centre,) = {row[0] for row in impropers}
    assert int(centre) - 1 == topology.impropers[0, 1]


def test_types_are_the_ligands_own(build_ligand, parametrize_ligand):
    """Names start with a letter; another id or parameter gives another prefix, the same value the same."""
    one = parametrize_ligand(build_ligand("CO"))
    renamed = dataclasses.replace(one, id="ligand-2")
    refitted = parametrize_ligand(build_ligand("CO"), one.coords, seed=1)
    names = {row[0] for row in _rows(write_atomtypes_itp(one), "atomtypes")}
    assert all(re.fullmatch(r"L[0-9a-f]{8}_\d+", name) for name in names)
    assert {row[1] for row in _rows(write_molecule_itp(one), "atoms")} == names
    assert len({hash_prefix(part) for part in (one, renamed, refitted)}) == 3
    assert hash_prefix(one) == hash_prefix(dataclasses.replace(one, coords=None))


def test_box_holds_a_cutoff_beyond_the_ligand(build_ligand, parametrize_ligand):
    """The side is at least 20 nm and more than twice the longest distance."""
    positions = np.array([[0.0, 0.0, 0.0], [30.0, 5.0, 2.0]])
    assert box_side(positions) > 2 * np.linalg.norm(positions[1])
    assert box_side(positions[:1]) == 20.0


def test_coordinates_missing_or_out_of_reach(water):
    """No geometry, or one that the columns cannot hold: an ExportError that says so."""
    with pytest.raises(ExportError, match="no coordinates"):
        write_gro(dataclasses.replace(water, coords=None))
    with pytest.raises(ExportError, match="9990 angstrom"):
        write_gro(dataclasses.replace(water, coords=water.coords + 1e5))


@pytest.mark.parametrize("name", ["", "; [ x ]", "é\u2028水", "a\nb", "x" * 300, 'q"uo\\'])
def test_a_name_stays_in_its_line(water, name):
    """Title and comments keep to one ASCII line without the preprocessor's marks, and are never empty."""
    named = dataclasses.replace(water, ligand=dataclasses.replace(water.ligand, name=name))
    plain = write_top(water).splitlines()
    text = write_top(named)
    assert text.isascii()
    assert len(text.splitlines()) == len(plain)
    title = text.split("[ system ]\n")[1].splitlines()[0]
    assert title.strip()
    assert not set(title) & set(';[]#\\"')
    assert not any(line.endswith("\\") for line in text.splitlines())
