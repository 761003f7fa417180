"""The rules of the prmtop that no energy of one molecule may show, and its fixed columns."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal

import numpy as np
import parmed
import pytest

from pipeline.errors import ExportError
from pipeline.export.amber import print_charges, write_inpcrd, write_prmtop
from pipeline.export.naming import build_atom_names


def _section(text: str, flag: str) -> list[str]:
    return text.split(f"%FLAG {flag}\n")[1].split("\n", 1)[1].split("%FLAG")[0].split()


def _dihedral_rows(text: str) -> np.ndarray:
    words = _section(text, "DIHEDRALS_INC_HYDROGEN") + _section(text, "DIHEDRALS_WITHOUT_HYDROGEN")
    return np.array([int(word) for word in words]).reshape(-1, 5)


@pytest.fixture(
    params=["CCO", "c1ccccc1", "C1CCC1", "CC#CC", "C1=CC1", "C12C3C4C1C5C2C3C45", "NC(=O)c1ccccc1", "C=C=C"]
)
def parametrized(request, build_ligand, parametrize_ligand):
    return parametrize_ligand(build_ligand(request.param))


def test_each_14_pair_is_counted_by_one_row(parametrized):
    """Rows whose third and fourth pointers are positive name each pair three bonds apart exactly once."""
    rows = _dihedral_rows(write_prmtop(parametrized))
    counted = rows[(rows[:, 2] > 0) & (rows[:, 3] > 0)] // 3
    pairs = Counter((min(row[0], row[3]), max(row[0], row[3])) for row in counted.tolist())
    assert pairs == Counter(map(tuple, parametrized.topology.pairs_14.tolist()))


def test_atom_zero_never_needs_a_sign(parametrized):
    """No pointer that carries a sign belongs to atom 0, which could not."""
    rows = _dihedral_rows(write_prmtop(parametrized))
    signed = rows[(rows[:, 2] <= 0) | (rows[:, 3] <= 0)]
    assert (signed[:, 2] != 0).all()
    assert (signed[:, 3] != 0).all()


def test_impropers_carry_both_signs(parametrized):
    """A negative fourth pointer marks each improper term, and its third is negative too: no 1-4."""
    rows = _dihedral_rows(write_prmtop(parametrized))
    impropers = rows[rows[:, 3] < 0]
    assert len(impropers) == np.count_nonzero(parametrized.parameters.improper_k)
    assert (impropers[:, 2] < 0).all()


def test_pointers_count_the_rows(parametrized):
    """The counts of POINTERS are those of the sections, hydrogens first."""
    text = write_prmtop(parametrized)
    pointers = [int(word) for word in _section(text, "POINTERS")]
    assert len(pointers) == 31
    assert pointers[0] == parametrized.topology.n_atoms
    for place, (flag, width) in enumerate((("BONDS", 3), ("ANGLES", 4), ("DIHEDRALS", 5))):
        for offset, kind in enumerate(("INC", "WITHOUT")):
            rows = _section(text, f"{flag}_{kind}_HYDROGEN")
            assert pointers[2 + 2 * place + offset] == len(rows) / width
    assert pointers[10] == len(_section(text, "EXCLUDED_ATOMS_LIST"))


def test_hydrogen_bonds_are_listed_apart(build_ligand, parametrize_ligand):
    """Ethanol: 6 bonds with hydrogen, 2 without; programs constrain the first list."""
    text = write_prmtop(parametrize_ligand(build_ligand("CCO")))
    assert len(_section(text, "BONDS_INC_HYDROGEN")) == 3 * 6
    assert len(_section(text, "BONDS_WITHOUT_HYDROGEN")) == 3 * 2


def test_lines_keep_to_the_columns(parametrized):
    """No line is longer than 80 characters, as the fixed formats demand."""
    for text in (write_prmtop(parametrized), write_inpcrd(parametrized)):
        assert max(map(len, text.splitlines())) <= 80


def test_charges_that_round_the_same_way_still_sum(build_ligand, parametrize_ligand):
    """Six charges of 1/6 each round the same way; the printed ones sum to 18.2223 in decimal arithmetic."""
    parametrized = parametrize_ligand(build_ligand("CC#N"))
    parameters = replace(parametrized.parameters, charge=np.full(6, 1 / 6))
    printed = print_charges(parameters)
    assert sum(printed, Decimal(0)) == Decimal("18.2223")
    assert max(abs(charge - Decimal("3.03705")) for charge in printed) <= Decimal("1e-7")


def test_atom_names_are_unique_and_short(build_ligand, parametrize_ligand):
    """120 atoms: names stay within four characters and none comes twice."""
    topology = parametrize_ligand(build_ligand("C" * 39)).topology
    names = build_atom_names(topology)
    assert len(set(names)) == topology.n_atoms
    assert max(map(len, names)) <= 4


@pytest.mark.parametrize("name", ["%FLAG TITLE", "ü" * 300, "two\nlines", ""])
def test_a_strange_name_stays_one_title_line(name, build_ligand, parametrize_ligand):
    """Names that would break the sections are made harmless: the second line of TITLE is the FLAG after."""
    parametrized = parametrize_ligand(build_ligand("O"))
    text = write_prmtop(replace(parametrized, ligand=replace(parametrized.ligand, name=name)))
    title = text.split("%FLAG TITLE\n%FORMAT(20a4)\n")[1].splitlines()
    assert title[0].isascii()
    assert 0 < len(title[0]) <= 80
    assert not title[0].startswith("%")
    assert title[1] == "%FLAG POINTERS"


@pytest.mark.parametrize("smiles", ["NC(=O)c1ccc(F)cc1", "CS(=O)(=O)NCl", "COP(=O)([O-])[O-]", "CBr"])
def test_born_radii_are_those_of_mbondi2(smiles, tmp_path, build_ligand, parametrize_ligand):
    """Radii and screening factors are what ParmEd gives the same topology under the name that we write."""
    path = tmp_path / "ligand.prmtop"
    path.write_text(write_prmtop(parametrize_ligand(build_ligand(smiles))))
    topology = parmed.load_file(str(path))
    ours = np.array([(atom.solvent_radius, atom.screen) for atom in topology.atoms])
    parmed.tools.changeRadii(topology, "mbondi2").execute()
    np.testing.assert_allclose(ours, [(atom.solvent_radius, atom.screen) for atom in topology.atoms])


def test_coordinates_that_overflow_are_refused(build_ligand, parametrize_ligand):
    """F12.7 holds no coordinate of 10,000 angstrom."""
    parametrized = parametrize_ligand(build_ligand("O"))
    with pytest.raises(ExportError, match="9999"):
        write_inpcrd(replace(parametrized, coords=parametrized.coords + 1e4))
