import io
from collections import Counter

import matplotlib.image
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from pipeline.fragments.cut import CAP, Fragment, build_fragments
from pipeline.fragments.drive_plan import drive_key, map_dihedral_to_parents, plan_drives
from pipeline.fragments.functional_groups import find_functional_groups
from pipeline.fragments.picture import draw_fragments_png, draw_fragments_svg
from pipeline.fragments.rotors import dihedrals_about, list_rotors
from pipeline.library import Record
from pipeline.ligand import ligand_from_rdkit, ligand_key, reorder_ligand, standardise, to_rdkit
from pipeline.schema import Ligand
from pipeline.settings import FragmentSettings, LigandRules
from pipeline.stereo import count_specified_stereo, has_stereo_of

DRUGS = {
    "imatinib": "Cc1ccc(cc1Nc1nccc(n1)-c1cccnc1)NC(=O)c1ccc(CN2CCN(C)CC2)cc1",
    "apixaban": "COc1ccc(cc1)-n1nc(C(N)=O)c2CCN(C(=O)c12)c1ccc(cc1)N1CCCCC1=O",
    "celecoxib": "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",
    "atorvastatin": "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CC[C@@H](O)C[C@@H](O)CC(=O)[O-]",
    "sildenafil": "CCCc1nn(C)c2c1nc([nH]c2=O)-c1cc(ccc1OCC)S(=O)(=O)N1CC[NH+](C)CC1",
    "sofosbuvir": "CC(C)OC(=O)[C@H](C)N[P@](=O)(OC[C@H]1O[C@@H](n2ccc(=O)[nH]c2=O)[C@](C)(F)[C@@H]1O)"
    "Oc1ccccc1",
    "oseltamivir": "CCOC(=O)C1=C[C@@H](OC(CC)CC)[C@H](NC(C)=O)[C@@H]([NH3+])C1",
    "tamoxifen": "CC/C(=C(\\c1ccccc1)c1ccc(OCC[NH+](C)C)cc1)c1ccccc1",
    "glibenclamide": "COc1ccc(Cl)cc1C(=O)NCCc1ccc(cc1)S(=O)(=O)NC(=O)NC1CCCCC1",
    "nitrofurantoin ester": "O=C(OCCCCOC(=O)/C=C/c1ccc([N+](=O)[O-])o1)CN1C(=O)CN(C1=O)/N=C/c1ccccc1",
    "pentamidine": "NC(=[NH2+])c1ccc(OCCCCCOc2ccc(cc2)C(N)=[NH2+])cc1",
    "zidovudine ester": "CC(=O)NC(CC)(CC)COC[C@H]1O[C@H](C[C@@H]1N=[N+]=[N-])n1cc(C)c(=O)[nH]c1=O",
}

SERIES = [
    f"O=C(N{amine})c1ccc(Nc2nccc({aryl})n2)c({ortho})c1"
    for amine in ("C", "CC", "C3CC3", "CCOC")
    for aryl in ("c4ccccc4", "c4cccnc4", "c4cccs4")
    for ortho in ("[H]", "F", "C")
]


def make_ligand(smiles: str, name: str = "test") -> Ligand:
    return ligand_from_rdkit(Chem.AddHs(Chem.MolFromSmiles(smiles)), name)


def fragments_of(smiles: str, whole_heavy_atoms: int = 12) -> tuple[Fragment, ...]:
    return build_fragments(make_ligand(smiles), FragmentSettings(whole_heavy_atoms=whole_heavy_atoms))


def about(smiles: str, bond: str) -> str:
    """SMILES of the fragment about the one bond that a SMARTS finds between its atoms 1 and 2."""
    ligand = make_ligand(smiles)
    pattern = Chem.MolFromSmarts(bond)
    marks = {atom.GetAtomMapNum(): atom.GetIdx() for atom in pattern.GetAtoms() if atom.GetAtomMapNum()}
    matches = to_rdkit(ligand).GetSubstructMatches(pattern)
    wanted = {frozenset((match[marks[1]], match[marks[2]])) for match in matches}
    fragments = build_fragments(ligand, FragmentSettings(whole_heavy_atoms=0))
    found = {f.ligand.name for f in fragments if frozenset(parent_bond(f)) in wanted}
    assert len(found) == 1, f"{bond} found {found}"
    return found.pop()


def parent_bond(fragment: Fragment) -> tuple[int, int]:
    first, second = fragment.parent_atoms[fragment.dihedrals[0, 1:3]]
    return int(first), int(second)


@pytest.fixture(scope="module", params=DRUGS)
def drug(request: pytest.FixtureRequest) -> tuple[Ligand, tuple[Fragment, ...]]:
    ligand = make_ligand(DRUGS[request.param], request.param)
    return ligand, build_fragments(ligand, FragmentSettings())


@pytest.mark.parametrize(
    ("smiles", "bond", "expected"),
    [
        # the ortho methyl of the far ring stays, the meta amide goes
        (DRUGS["imatinib"], "n[c:1](n)-[NH:2]", "Cc1ccccc1Nc1ncccn1"),
        # functional groups whole, aryl and alkyl carbon capped with hydrogen
        (DRUGS["celecoxib"], "[c:1]-[S:2]", "NS(=O)(=O)c1ccccc1"),
        # the ether's oxygen is capped with methyl, the ammonium keeps its charge
        (DRUGS["tamoxifen"], "[CH2:1]-[N+:2]", "COCC[NH+](C)C"),
        (DRUGS["sildenafil"], "[c:1]-!@[c:2]", "COc1ccccc1-c1nc2cnn(C)c2c(=O)[nH]1"),
        # para nitro pulls on the amine through the ring; meta nitro does not
        ("O=[N+]([O-])c1ccc(NCCCCCCCC)cc1", "[c:1]-[NH:2]", "CCNc1ccc([N+](=O)[O-])cc1"),
        ("O=[N+]([O-])c1cccc(NCCCCCCCC)c1", "[c:1]-[NH:2]", "CCNc1ccccc1"),
        # ortho isopropyl keeps its branches; ortho butyl shortens to methyl
        ("CC(C)c1ccccc1-c1ccc(CCCC)cc1", "[c:1]-!@[c:2]", "CC(C)c1ccccc1-c1ccccc1"),
        ("CCCCc1ccccc1-c1ccc(CCCC)cc1", "[c:1]-!@[c:2]", "Cc1ccccc1-c1ccccc1"),
        # a ketone does not become an aldehyde
        ("CCCCCCC(=O)CCCCC", "[CX4:1]-[CX4:2]CC(=O)CCCCC", "CCCCCC(C)=O"),
        # spiro rings come whole
        ("c1ccccc1CCCC1CCC2(CC1)OCCO2", "[CH2:1]-!@[CX4;R:2]", "CCCC1CCC2(CC1)OCCO2"),
        # a conjugated chain is not cut, and keeps its ends
        ("CCCCC/C=C/C=C/CCCCC", "[CX4:1]-[CX4:2]C=C", "C/C=C/C=C/CCCC"),
        # a charge three bonds away stays, one four bonds away goes
        ("C[N+](C)(C)CCCCCCCC", "[N+]CC[CH2:1]-[CH2:2]", "CCCCCC[N+](C)(C)C"),
        ("C[N+](C)(C)CCCCCCCC", "[N+]CCC[CH2:1]-[CH2:2]", "CCCCCC"),
        # para to a sulfide an ether pushes, a phosphoryl pulls; a sulfone is not conjugated with its ring
        ("CCCCCCSc1ccc(OC)cc1", "[c:1]-[SX2:2]", "CCSc1ccc(OC)cc1"),
        ("CCCCCCSc1ccc(P(C)(C)=O)cc1", "[c:1]-[SX2:2]", "CCSc1ccc(P(C)(C)=O)cc1"),
        ("CCCCCCS(=O)(=O)c1ccc(OC)cc1", "[c:1]-[S:2]", "CCS(=O)(=O)c1ccccc1"),
    ],
)
def test_fragments_are_what_a_chemist_would_draw(smiles: str, bond: str, expected: str) -> None:
    """Each bond gets the fragment worked out by hand from the rules."""
    assert about(smiles, bond) == Chem.CanonSmiles(expected)


def test_the_same_ligand_in_another_order_has_the_same_fragments(
    drug: tuple[Ligand, tuple[Fragment, ...]],
) -> None:
    """Labelled molecules and driven dihedrals agree exactly, and the atoms map back to the same elements."""
    ligand, fragments = drug
    mol = to_rdkit(ligand)
    order = np.random.default_rng(5).permutation(mol.GetNumAtoms())
    permuted = build_fragments(reorder_ligand(ligand, order), FragmentSettings())
    assert Counter(map(labels, permuted)) == Counter(map(labels, fragments))
    for fragment in permuted:
        assert_maps_onto(fragment, to_rdkit(reorder_ligand(ligand, order)))


def labels(fragment: Fragment) -> tuple[str, str]:
    return fragment.ligand.mapped_smiles, str(fragment.dihedrals.tolist())


def assert_maps_onto(fragment: Fragment, parent: Chem.Mol) -> None:
    mol = to_rdkit(fragment.ligand)
    origins = fragment.parent_atoms.tolist()
    real = [idx for idx in origins if idx != CAP]
    assert len(set(real)) == len(real)
    for atom, origin in zip(mol.GetAtoms(), origins, strict=True):
        if origin != CAP:
            assert atom.GetAtomicNum() == parent.GetAtomWithIdx(origin).GetAtomicNum()
    for bond in mol.GetBonds():
        ends = origins[bond.GetBeginAtomIdx()], origins[bond.GetEndAtomIdx()]
        if CAP not in ends:
            assert parent.GetBondBetweenAtoms(*ends) is not None


def test_another_resonance_form_has_the_same_fragments() -> None:
    """An amidinium drawn with its charge on either nitrogen is one molecule."""
    forms = ("CC[NH+]=C(NCCC)c1ccc(OCCCC)cc1", "CCNC(=[NH+]CCC)c1ccc(OCCCC)cc1")
    first, second = (Counter(map(labels, fragments_of(smiles))) for smiles in forms)
    assert first == second


def test_fragments_are_molecules_like_any_other(drug: tuple[Ligand, tuple[Fragment, ...]]) -> None:
    """A fragment passes the library's rules (no radical, no open stereo) and comes out as itself."""
    for fragment in drug[1]:
        record = Record(number=1, name="f", source="f", form="smiles", text=fragment.ligand.name)
        again = standardise(record, LigandRules()).ligand
        assert ligand_key(again) == ligand_key(fragment.ligand)
        assert again.total_charge == fragment.ligand.total_charge


def test_functional_groups_are_whole_and_none_is_new(drug: tuple[Ligand, tuple[Fragment, ...]]) -> None:
    """The table finds in a fragment the groups that the ligand has there, all their atoms, and no others."""
    ligand, fragments = drug
    groups = {(group.name, group.atoms) for group in find_functional_groups(to_rdkit(ligand))}
    for fragment in fragments:
        origins = fragment.parent_atoms
        found = {
            (group.name, frozenset(int(origins[idx]) for idx in group.atoms))
            for group in find_functional_groups(to_rdkit(fragment.ligand))
        }
        assert found == {group for group in groups if group[1] & set(origins.tolist())}


def test_surroundings_within_two_bonds_are_the_ligands(drug: tuple[Ligand, tuple[Fragment, ...]]) -> None:
    """Element, degree, rings, aromaticity and the sum of charges (they may move) agree out to two bonds."""
    ligand, fragments = drug
    parent = to_rdkit(ligand)
    for fragment in fragments:
        mol = to_rdkit(fragment.ligand)
        bond = tuple(int(idx) for idx in fragment.dihedrals[0, 1:3])
        near, near_parent = within_two_bonds(mol, bond), within_two_bonds(parent, parent_bond(fragment))
        assert {int(fragment.parent_atoms[idx]) for idx in near} == near_parent
        for idx in near:
            assert surroundings(mol, idx) == surroundings(parent, int(fragment.parent_atoms[idx]))
        assert charge_of(mol, near) == charge_of(parent, near_parent)


def within_two_bonds(mol: Chem.Mol, bond: tuple[int, ...]) -> set[int]:
    matrix = Chem.GetDistanceMatrix(mol)
    return {idx for idx in range(mol.GetNumAtoms()) if min(matrix[idx][end] for end in bond) <= 2}


def surroundings(mol: Chem.Mol, idx: int) -> tuple[int, int, bool, tuple[int, ...]]:
    atom = mol.GetAtomWithIdx(idx)
    rings = tuple(sorted(mol.GetRingInfo().AtomRingSizes(idx)))
    return atom.GetAtomicNum(), atom.GetDegree(), atom.GetIsAromatic(), rings


def charge_of(mol: Chem.Mol, idxs: set[int]) -> int:
    return sum(mol.GetAtomWithIdx(idx).GetFormalCharge() for idx in idxs)


@pytest.mark.parametrize("name", ["atorvastatin", "sofosbuvir", "oseltamivir", "nitrofurantoin ester"])
def test_stereo_is_kept(name: str) -> None:
    """The ligand's own geometry, caps where the lost atoms were, has every stereocentre of its fragments."""
    ligand = make_ligand(DRUGS[name])
    parent = to_rdkit(ligand)
    assert rdDistGeom.EmbedMolecule(parent, randomSeed=7) == 0
    coords = parent.GetConformer().GetPositions()
    n_stereo = 0
    for fragment in build_fragments(ligand, FragmentSettings()):
        mol = to_rdkit(fragment.ligand)
        n_stereo += count_specified_stereo(mol)
        assert has_stereo_of(mol, lend_coords(fragment, mol, parent, coords))
    assert n_stereo > 0


def lend_coords(fragment: Fragment, mol: Chem.Mol, parent: Chem.Mol, coords: np.ndarray) -> np.ndarray:
    """Coordinates of a fragment; a cap stands where the ligand's atom was, hydrogens of a methyl anywhere."""
    origins = fragment.parent_atoms.tolist()
    placed = np.zeros((len(origins), 3))
    for idx, origin in enumerate(origins):
        if origin != CAP:
            placed[idx] = coords[origin]
            lost = [
                n.GetIdx() for n in parent.GetAtomWithIdx(origin).GetNeighbors() if n.GetIdx() not in origins
            ]
            caps = [n.GetIdx() for n in mol.GetAtomWithIdx(idx).GetNeighbors() if origins[n.GetIdx()] == CAP]
            for cap, atom in zip(caps, lost, strict=True):
                placed[cap] = coords[atom]
    return placed


def test_a_fragment_is_its_own_fragment(drug: tuple[Ligand, tuple[Fragment, ...]]) -> None:
    """Cutting a fragment again about the same bond finds nothing more to cut."""
    for fragment in drug[1]:
        again = build_fragments(fragment.ligand, FragmentSettings(whole_heavy_atoms=0))
        assert drive_key(fragment) in {drive_key(each) for each in again}


def test_a_small_ligand_is_its_own_fragment() -> None:
    """Up to the size set, all atoms stay and map one to one; above it, they do not."""
    smiles = "CCCCCCOCC"
    for fragment in fragments_of(smiles, whole_heavy_atoms=9):
        assert sorted(fragment.parent_atoms) == list(range(len(fragment.parent_atoms)))
        assert ligand_key(fragment.ligand) == ligand_key(make_ligand(smiles))
    assert any(CAP in fragment.parent_atoms for fragment in fragments_of(smiles, whole_heavy_atoms=8))


@pytest.mark.parametrize(
    ("smiles", "n_rotors", "option", "n_with_option"),
    [
        ("CC", 0, "drive_symmetric_tops", 1),
        ("CCCC", 1, "drive_symmetric_tops", 3),
        ("Cc1ccccc1", 0, "drive_symmetric_tops", 1),
        ("CCC(F)(F)F", 0, "drive_symmetric_tops", 2),
        ("c1ccccc1C(C)(C)C", 0, "drive_symmetric_tops", 4),
        ("CCC[NH3+]", 1, "drive_symmetric_tops", 3),
        ("CCS(=O)(=O)[O-]", 0, "drive_symmetric_tops", 2),
        ("CCO", 0, "drive_hydrogen_tops", 1),
        ("Oc1ccccc1", 0, "drive_hydrogen_tops", 1),
        ("CCC(=O)NCC", 2, "drive_amides", 3),
        ("CCC(=O)OCC", 2, "drive_amides", 3),
        ("CCNC(=[NH2+])CC", 2, "drive_amides", 3),
        ("CCS(=O)(=O)NCC", 3, "drive_amides", 3),
        ("c1ccccc1-c1ccccc1", 1, "drive_amides", 1),
        ("c1ccccc1C#Cc1ccccc1", 0, "drive_amides", 0),
        ("CCC#N", 0, "drive_amides", 0),
        ("CC=CC=CC", 1, "drive_amides", 1),
        ("C1CCCCC1", 0, "drive_amides", 0),
    ],
)
def test_rotors_are_counted_as_by_hand(smiles: str, n_rotors: int, option: str, n_with_option: int) -> None:
    """Rings, multiple bonds, terminal atoms and linear centres never turn; the options choose the rest."""
    mol = to_rdkit(make_ligand(smiles))
    assert len(list_rotors(mol, FragmentSettings())) == n_rotors
    assert len(list_rotors(mol, FragmentSettings.model_validate({option: True}))) == n_with_option


def test_the_lone_substituent_leads_the_dihedral() -> None:
    """2-Fluorobiphenyl: the dihedral ends on the carbon that bears fluorine, the only one of its kind."""
    (fragment,) = fragments_of("Fc1ccccc1-c1ccccc1")
    mol = to_rdkit(fragment.ligand)
    ends = [mol.GetAtomWithIdx(int(fragment.dihedrals[0, column])) for column in (0, 3)]
    with_fluorine = [any(n.GetAtomicNum() == 9 for n in end.GetNeighbors()) for end in ends]
    assert sorted(with_fluorine) == [False, True]


def test_equal_bonds_share_one_drive() -> None:
    """Dibutyl ether: six bonds turn, mirror images in pairs, so three drives serve two bonds each."""
    plan = plan_drives([make_ligand("CCCCOCCCC")], set(), FragmentSettings())
    assert (plan.n_bonds, plan.n_drives) == (6, 3)
    assert [len(drive.uses) for drive in plan.drives] == [2, 2, 2]


def test_every_dihedral_about_a_driven_bond_maps_back() -> None:
    """What a drive says of each proper about its bond goes to a chain of bonded atoms in every ligand."""
    ligands = [make_ligand(smiles) for smiles in SERIES[:6]]
    parents = [to_rdkit(ligand) for ligand in ligands]
    plan = plan_drives(ligands, set(), FragmentSettings())
    for drive in plan.drives:
        mol = to_rdkit(drive.ligand)
        for dihedral in dihedrals_about(mol, drive.dihedral[1:3]):
            served = map_dihedral_to_parents(drive, dihedral)
            assert [idx for idx, _ in served] == [use.ligand_idx for use in drive.uses]
            for ligand_idx, atoms in served:
                parent = parents[ligand_idx]
                assert all(parent.GetBondBetweenAtoms(*atoms[c : c + 2]) for c in range(3))
                assert [parent.GetAtomWithIdx(idx).GetAtomicNum() for idx in atoms] == [
                    mol.GetAtomWithIdx(idx).GetAtomicNum() for idx in dihedral
                ]


def test_a_series_costs_little_more_than_its_parts() -> None:
    """36 ligands from 10 parts: every bond is served once, by fewer than a third as many drives."""
    ligands = [make_ligand(smiles) for smiles in SERIES]
    plan = plan_drives(ligands, set(), FragmentSettings())
    alone = [plan_drives([ligand], set(), FragmentSettings()) for ligand in ligands]
    assert plan.n_bonds == sum(each.n_bonds for each in alone)
    assert plan.n_drives == len({drive.key for each in alone for drive in each.drives})
    assert 3 * plan.n_drives < plan.n_bonds


def test_drives_in_the_store_are_not_run_again() -> None:
    """Known keys move their drives out of the plan, and nothing else changes."""
    ligands = [make_ligand(smiles) for smiles in SERIES[:3]]
    fresh = plan_drives(ligands, set(), FragmentSettings())
    held = {drive.key for drive in fresh.drives[::2]}
    plan = plan_drives(ligands, held, FragmentSettings())
    assert {drive.key for drive in plan.known} == held
    assert [drive.key for drive in plan.drives] == [drive.key for drive in fresh.drives[1::2]]
    assert plan.n_bonds == fresh.n_bonds


def test_the_picture_has_a_panel_per_fragment() -> None:
    """Three bonds and their ligand fill four panels of 300 by 260 pixels; the SVG says the same."""
    ligand = make_ligand(DRUGS["celecoxib"], "celecoxib")
    fragments = build_fragments(ligand, FragmentSettings())
    image = matplotlib.image.imread(io.BytesIO(draw_fragments_png(ligand, fragments)))
    assert image.shape[:2] == (260, 1200)
    assert b"width='1200px' height='260px'" in draw_fragments_svg(ligand, fragments)
