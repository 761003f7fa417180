"""The labeller: which parameter a term gets, and the energy that the labels mean."""

import math
from itertools import pairwise

import numpy as np
import pytest
from rdkit import Chem

from pipeline.errors import ParametersError
from pipeline.export.openmm_system import build_system
from pipeline.ligand import ligand_from_rdkit
from pipeline.readback.energies import compute_report
from pipeline.schema import FloatArray, Ligand, MMParameters
from pipeline.smirnoff import SmirnoffForceField, label, read_smirnoff
from pipeline.smirnoff.matching import compile_pattern, find_matches, molecule_for_matching
from pipeline.topology import build_topology

EXACT = 1e-14
"""Relative: a few roundings of float64."""

ANYTHING = """
<Bonds version="0.3"><Bond smirks="[*:1]~[*:2]" id="b0" length="1.4*angstrom"
  k="600*kilocalorie_per_mole/angstrom**2"/>%(bonds)s</Bonds>
<Angles version="0.3"><Angle smirks="[*:1]~[*:2]~[*:3]" id="a0" angle="115*degree"
  k="100*kilocalorie_per_mole/radian**2"/>%(angles)s</Angles>
<ProperTorsions version="0.3" default_idivf="auto"><Proper smirks="[*:1]~[*:2]~[*:3]~[*:4]" id="t0"
  periodicity1="3" phase1="0*degree" k1="%(k)s*kilocalorie_per_mole" idivf1="1"/>%(propers)s</ProperTorsions>
<ImproperTorsions version="0.3" default_idivf="auto">%(impropers)s</ImproperTorsions>
<vdW version="0.3"><Atom smirks="[*:1]" id="n0" sigma="3*angstrom" epsilon="0.1*kilocalorie_per_mole"/>%(vdw)s
</vdW>
<Electrostatics version="0.3" scale14="%(scale14)s"/>
<LibraryCharges version="0.3">%(charges)s</LibraryCharges>
"""
EMPTY = dict.fromkeys(("bonds", "angles", "propers", "impropers", "vdw", "charges"), "")


def force_field(k: str = "0.0", scale14: str = "0.833333", **sections: str) -> SmirnoffForceField:
    """A force field of generic terms, followed by the given more special ones."""
    text = ANYTHING % (EMPTY | {"k": k, "scale14": scale14} | sections)
    return read_smirnoff(f'<SMIRNOFF version="0.3" aromaticity_model="OEAroModel_MDL">{text}</SMIRNOFF>')


def bond(smirks: str, length: float) -> str:
    return f'<Bond smirks="{smirks}" length="{length}*angstrom" k="1*kilocalorie_per_mole/angstrom**2"/>'


def torsion(name: str, smirks: str, *terms: str) -> str:
    """`terms` are written as `periodicity phase k [idivf]`."""
    attributes = ""
    for n, term in enumerate(terms, start=1):
        periodicity, phase, k, *idivf = term.split()
        attributes += (
            f'periodicity{n}="{periodicity}" phase{n}="{phase}*degree" k{n}="{k}*kilocalorie_per_mole" '
        )
        attributes += f'idivf{n}="{idivf[0]}" ' if idivf else ""
    return f'<{name} smirks="{smirks}" id="special" {attributes}/>'


def ligand(smiles: str) -> Ligand:
    return ligand_from_rdkit(Chem.AddHs(Chem.MolFromSmiles(smiles)), smiles)


def label_smiles(parameters: SmirnoffForceField, smiles: str) -> MMParameters:
    """Label with charges spread evenly."""
    molecule = ligand(smiles)
    topology = build_topology(molecule)
    charges = np.full(topology.n_atoms, molecule.total_charge / topology.n_atoms)
    return label(parameters, molecule, topology, charges=charges)


def test_the_last_match_wins_in_each_section() -> None:
    """Of a generic, a special and again a generic pattern, the later one decides, term by term."""
    special = bond("[#6X4:1]-[#8:2]", 1.43) + bond("[#8:1]-[#1:2]", 0.97)
    parameters = label_smiles(force_field(bonds=special), "CO")
    # rows in order: C-O, three C-H, O-H
    assert parameters.bond_length.tolist() == [1.43, 1.4, 1.4, 1.4, 0.97]
    overridden = label_smiles(force_field(bonds=special + bond("[*:1]~[#8:2]", 1.5)), "CO")
    assert overridden.bond_length.tolist() == [1.5, 1.4, 1.4, 1.4, 1.5]


def test_a_symmetric_term_matches_in_either_direction() -> None:
    """A pattern and its reversal label a ligand alike, and so does the ligand with its atoms reversed."""
    forward = torsion("Proper", "[#9:1]-[#6:2]-[#6:3]-[#8:4]", "1 0 0.5")
    backward = torsion("Proper", "[#8:1]-[#6:2]-[#6:3]-[#9:4]", "1 0 0.5")
    expected = label_smiles(force_field(propers=forward), "FCCO").proper_k
    assert (label_smiles(force_field(propers=backward), "FCCO").proper_k == expected).all()
    # only one chain F-C-C-O; auto idivf is (4 - 1) (4 - 1)
    assert expected.sum() == pytest.approx(0.5 / 9, rel=EXACT)
    mirrored = label_smiles(force_field(propers=forward), "OCCF").proper_k
    assert mirrored.sum() == pytest.approx(0.5 / 9, rel=EXACT)


def test_idivf_divides_and_terms_of_one_periodicity_add() -> None:
    """Butane's C-C-C-C: explicit and automatic divisors, repeated periodicities, phase 180 as a sign."""
    special = torsion("Proper", "[#6:1]-[#6:2]-[#6:3]-[#6:4]", "2 0 0.9 3", "2 180 0.1 1", "6 180 -0.2 auto")
    parameters = label_smiles(force_field(propers=special), "CCCC")
    topology = build_topology(ligand("CCCC"))
    row = topology.propers.tolist().index([0, 1, 2, 3])
    expected = [0, 0.9 / 3 - 0.1, 0, 0, 0, 0.2 / 9]
    assert parameters.proper_k[row] == pytest.approx(expected, rel=EXACT)
    assert parameters.proper_k.sum() == pytest.approx(sum(expected), rel=EXACT)


def test_impropers_take_a_third_per_row_unless_idivf_is_given() -> None:
    """Formaldehyde's three trefoil rows: k/3 each by default, k with idivf 1; zero where nothing matches."""
    smirks = "[*:1]~[#6X3:2](~[*:3])~[*:4]"
    for idivf, divisor in (("", 3), (" auto", 3), (" 1", 1), (" 2.0", 2)):
        improper = torsion("Improper", smirks, f"2 180 10.5{idivf}")
        found = label_smiles(force_field(impropers=improper), "C=O").improper_k
        assert found == pytest.approx(np.array([[0, -10.5 / divisor]] * 3), rel=EXACT)
    assert (label_smiles(force_field(impropers=improper), "CN(C)C").improper_k == 0).all()


def test_the_second_tag_is_the_centre_of_an_improper() -> None:
    """A later improper about the same centre replaces an earlier one, whichever way its ends are tagged."""
    first = torsion("Improper", "[*:1]~[#6X3:2](~[*:3])~[*:4]", "2 180 1")
    second = torsion("Improper", "[#8X1:1]~[#6X3:2](~[#7:3])~[*:4]", "2 180 3")
    found = label_smiles(force_field(impropers=first + second), "C=CC(=O)N").improper_k
    topology = build_topology(ligand("C=CC(=O)N"))
    by_centre = {int(row[1]): k for row, k in zip(topology.impropers, found[:, 1], strict=True)}
    assert by_centre == {0: -1 / 3, 1: -1 / 3, 2: -1.0, 4: 0.0}


def _dihedral(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> float:
    """The angle between the planes a-b-c and b-c-d, from their normals."""
    first, second = np.cross(b - a, c - b), np.cross(c - b, d - c)
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    return float(np.sign((b - a) @ second) * np.arccos(np.clip(cosine, -1, 1)))


def test_labels_mean_the_energy_of_the_specification() -> None:
    """OpenMM with the labels gives the file's torsion energy written out by hand, less 2k per phase of 180.

    N-methylformamide-like chain in a random geometry: propers k/idivf (1 + cos(n phi - phase)), impropers the
    average of the three dihedrals that start at the centre.
    """
    smiles, k_proper, k_improper = "CNC=O", 2.5, 10.5
    parameters = force_field(
        propers=torsion("Proper", "[*:1]-[#7:2]-[#6X3:3]~[*:4]", f"2 180 {k_proper} 4", "1 0 0.7 1"),
        impropers=torsion("Improper", "[*:1]~[#6X3:2](~[*:3])~[*:4]", f"2 180 {k_improper}"),
    )
    topology = build_topology(ligand(smiles))
    x = np.random.default_rng(3).normal(scale=1.5, size=(topology.n_atoms, 3))
    report = compute_report(build_system(topology, label_smiles(parameters, smiles)), x)

    ends_n = [0, 7]  # methyl carbon and hydrogen on N1; C2 bears O3 and H8
    phis = [_dihedral(x[i], x[1], x[2], x[j]) for i in ends_n for j in (3, 8)]
    assert {(1, 2), (1, 7), (2, 3), (2, 8)} <= {tuple(b) for b in topology.bonds.tolist()}
    proper = sum(k_proper / 4 * (1 + math.cos(2 * p - math.pi)) + 0.7 * (1 + math.cos(p)) for p in phis)
    trefoil = [_dihedral(x[2], x[i], x[j], x[k]) for i, j, k in ((1, 3, 8), (3, 8, 1), (8, 1, 3))]
    improper = sum(k_improper * (1 + math.cos(2 * p - math.pi)) for p in trefoil) / 3
    # 1e-9 kcal/mol: OpenMM's constants for nm and kJ round differently from ours
    assert report.proper == pytest.approx(proper - len(phis) * 2 * k_proper / 4, abs=1e-9)
    assert report.improper == pytest.approx(improper - 2 * k_improper, abs=1e-9)


def test_a_term_without_parameter_is_named() -> None:
    """The message names the section and the atoms, counted from 1."""
    carbon_only = force_field().bonds[:0]
    bare = SmirnoffForceField(bonds=carbon_only, angles=force_field().angles, vdw=force_field().vdw)
    with pytest.raises(ParametersError, match=r"^Bonds: no parameter for C1-H2 and 3 more$"):
        label_smiles(bare, "C")
    bare = SmirnoffForceField(bonds=force_field().bonds, angles=force_field().angles, vdw=force_field().vdw)
    with pytest.raises(ParametersError, match=r"^ProperTorsions: no parameter for H\d-C1-C2-H\d and 8 more$"):
        label_smiles(bare, "CC")


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        (("3 90 0.1",), "phase 90"),
        (("2 320 -1.0",), "phase 320"),
        (("7 0 0.1",), "periodicity 7"),
    ],
)
def test_terms_that_our_form_lacks_are_refused(terms: tuple[str, ...], says: str) -> None:
    """Other phases and high periodicities are an error, unless their force constant is zero."""
    with pytest.raises(ParametersError, match=says):
        label_smiles(force_field(propers=torsion("Proper", "[*:1]~[*:2]~[*:3]~[*:4]", *terms)), "CC")
    zero = [" ".join((*term.split()[:2], "0.0")) for term in terms]
    found = label_smiles(force_field(propers=torsion("Proper", "[*:1]~[*:2]~[*:3]~[*:4]", *zero)), "CC")
    assert (found.proper_k == 0).all()


@pytest.mark.parametrize("smiles", ["CC#N", "CC#CC", "C=C=C", "CN=[N+]=[N-]"])
def test_only_a_zero_torsion_may_lie_over_a_linear_centre(smiles: str) -> None:
    """Sage's zero torsions over alkynes and nitriles pass; one that is not zero is refused."""
    everything = force_field(k="0.0")
    assert (label_smiles(everything, smiles).proper_k == 0).all()
    with pytest.raises(ParametersError, match="linear"):
        label_smiles(force_field(k="0.1"), smiles)


def test_charges_come_from_the_library_where_it_covers_every_atom() -> None:
    """Water and chloride get their templates' charges, methanol those passed in."""
    library = (
        '<LibraryCharge smirks="[*:1]" charge1="9*elementary_charge"/>'
        '<LibraryCharge smirks="[#1]-[#8X2H2+0:1]-[#1]" charge1="-0.834*elementary_charge"/>'
        '<LibraryCharge smirks="[#1:1]-[#8X2H2+0]-[#1]" charge1="0.417*elementary_charge"/>'
        '<LibraryCharge smirks="[#17X0-1:1]" charge1="-1*elementary_charge"/>'
    )
    assert label_smiles(force_field(charges=library), "O").charge.tolist() == [-0.834, 0.417, 0.417]
    assert label_smiles(force_field(charges=library), "[Cl-]").charge.tolist() == [-1.0]
    with pytest.raises(ParametersError, match="the sum is 54, not 0"):
        label_smiles(force_field(charges=library), "CO")
    without_generic = library.partition("/>")[2]
    given = np.array([0.2, -0.6, 0.0, 0.0, 0.0, 0.4])
    methanol = ligand("CO")
    found = label(force_field(charges=without_generic), methanol, build_topology(methanol), charges=given)
    assert found.charge.tolist() == given.tolist()


def test_charges_passed_in_are_checked() -> None:
    """Missing, miscounted, NaN or unbalanced charges are refused; the rounding of 4 digits is spread."""
    water, parameters = ligand("O"), force_field()
    topology = build_topology(water)
    with pytest.raises(ParametersError, match="no charge for O1-H2-H3"):
        label(parameters, water, topology)
    for wrong in ([0.0, 0.0], [0.5, 0.0, 0.0], [math.nan, 0.0, 0.0]):
        with pytest.raises(ParametersError, match="charges"):
            label(parameters, water, topology, charges=np.array(wrong))
    rounded = np.array([-0.6667, 0.3333, 0.3333])
    charge = label(parameters, water, topology, charges=rounded).charge
    assert charge.sum() == pytest.approx(0.0, abs=1e-15)
    assert charge - rounded == pytest.approx(np.full(3, 1e-4 / 3), rel=1e-9)  # differences of near numbers


def test_a_template_of_the_whole_molecule_is_placed_once() -> None:
    """Hexamethylethane's 2 x 3!^8 = 3,359,232 placements are not listed; unequal charges are refused."""
    smiles = "CC(C)(C)C(C)(C)C"
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    by_kind = {("H", 0): 0.05, ("C", 3): -0.15, ("C", 0): 0.0}
    values = [by_kind[a.GetSymbol(), a.GetTotalNumHs(includeNeighbors=True)] for a in mol.GetAtoms()]
    numbered = " ".join(f'charge{n}="{q}*elementary_charge"' for n, q in enumerate(values, start=1))
    template = f'<LibraryCharge smirks="{Chem.MolToSmarts(mol)}" {numbered}/>'
    assert label_smiles(force_field(charges=template), smiles).charge.tolist() == values
    unequal = template.replace('charge25="0.05', 'charge25="0.06').replace('charge26="0.05', 'charge26="0.04')
    with pytest.raises(ParametersError, match="several ways"):
        label_smiles(force_field(charges=unequal), smiles)


def test_other_scale_factors_are_refused() -> None:
    """A 1-4 scaling that MMParameters cannot express would silently change the energy."""
    with pytest.raises(ParametersError, match="scale14"):
        label_smiles(force_field(scale14="1.0"), "C")


def test_aromaticity_is_the_mdl_model() -> None:
    """Benzene and naphthalene are aromatic; furan, pyrrole, thiophene and cyclopentadienide are not."""
    for smiles, n_aromatic in (("c1ccccc1", 6), ("c1ccc2ccccc2c1", 10), ("c1ccncc1", 6), ("c1ccoc1", 0)):
        matches = find_matches(compile_pattern("[a:1]", 1), molecule_for_matching(ligand(smiles)))
        assert len(matches) == n_aromatic
    for smiles in ("c1cc[nH]c1", "c1ccsc1", "c1cc[cH-]c1"):
        assert not find_matches(compile_pattern("[*:1]:[*:2]", 2), molecule_for_matching(ligand(smiles)))


def test_no_match_is_cut_off_in_a_long_chain() -> None:
    """C400H802: each of the 399 C-C bonds carries 3 x 3 chains of four, found in both directions.

    RDKit would stop at 1,000. Recursive patterns have a limit of their own.
    """
    mol = molecule_for_matching(ligand("C" * 400))
    chains = find_matches(compile_pattern("[*:1]-[*:2]-[*:3]-[*:4]", 4), mol)
    assert len(chains) == 2 * 9 * 399
    assert len(find_matches(compile_pattern("[$([#1]-[#6X4]):1]", 1), mol)) == 802


def test_reaching_the_limit_of_matches_is_an_error() -> None:
    """A pattern that lists hydrogens matches once per permutation of them: refused rather than cut short."""
    mol = molecule_for_matching(ligand("CC"))
    pattern = compile_pattern("[#6:1](-[#1])(-[#1])(-[#1])-[#6:2](-[#1])(-[#1])-[#1]", 2)
    assert find_matches(pattern, mol, limit=73) == {(0, 1), (1, 0)}  # 2 x 3! x 3! placements
    with pytest.raises(ParametersError, match="72 times or more"):
        find_matches(pattern, mol, limit=72)


def test_labels_follow_the_atoms_when_they_are_renumbered() -> None:
    """The same ligand with shuffled atoms gets the same parameters on the same atoms."""
    special = {
        "bonds": bond("[#6X3:1]=[#8:2]", 1.22) + bond("[#6:1]-[#1:2]", 1.09),
        "vdw": '<Atom smirks="[#8X1:1]" sigma="2.9*angstrom" epsilon="0.2*kilocalorie_per_mole"/>',
        "propers": torsion("Proper", "[#1:1]-[#6X4:2]-[#6X3:3]=[#8:4]", "1 0 0.3 1"),
    }
    parameters = force_field(**special)
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(=O)OC"))
    order = np.random.default_rng(5).permutation(mol.GetNumAtoms())
    shuffled = ligand_from_rdkit(Chem.RenumberAtoms(mol, order.tolist()), "shuffled")
    topology, shuffled_topology = build_topology(ligand("CC(=O)OC")), build_topology(shuffled)
    zeros = np.zeros(mol.GetNumAtoms())
    expected = label_smiles(parameters, "CC(=O)OC")
    found = label(parameters, shuffled, shuffled_topology, charges=zeros)
    assert found.sigma.tolist() == expected.sigma[order].tolist()
    for rows, shuffled_rows, values, shuffled_values in (
        (topology.bonds, shuffled_topology.bonds, expected.bond_length, found.bond_length),
        (topology.propers, shuffled_topology.propers, expected.proper_k[:, 0], found.proper_k[:, 0]),
    ):
        by_atoms = {frozenset(pairwise(row)): v for row, v in zip(rows.tolist(), values, strict=True)}
        by_atoms = {
            frozenset(frozenset(pair) for pair in key): value for key, value in by_atoms.items()
        }  # bonds of the chain, which have no direction
        for row, value in zip(order[shuffled_rows].tolist(), shuffled_values, strict=True):
            assert by_atoms[frozenset(frozenset(pair) for pair in pairwise(row))] == value
