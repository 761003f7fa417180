import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolTransforms

from pipeline.conformers import displaced_copies, embed_conformers, generate_conformers
from pipeline.errors import ChildError, ConformerError
from pipeline.ligand import ligand_from_rdkit, to_rdkit
from pipeline.schema import Conformers, Ligand
from pipeline.settings import ConformerSettings
from pipeline.stereo import has_stereo_of, place_atoms

FEW = ConformerSettings(n_embed=12)


def make_ligand(smiles: str) -> Ligand:
    return ligand_from_rdkit(Chem.AddHs(Chem.MolFromSmiles(smiles)), "test")


def mmff_energies(ligand: Ligand, conformers: Conformers) -> np.ndarray:
    """Energies (n_confs,) by a fresh MMFF94 force field, kcal/mol."""
    found = []
    for coords in conformers.coords:
        mol = place_atoms(to_rdkit(ligand), coords)
        types = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        found.append(rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, types).CalcEnergy())
    return np.array(found)


def test_the_seed_decides():
    """Same seed in two child processes: the same bits; another seed: other geometries."""
    ligand = make_ligand("CCCCO")
    first, again, other = (generate_conformers(ligand, FEW, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.coords, again.coords)
    assert first.coords.shape != other.coords.shape or not np.array_equal(first.coords, other.coords)


def test_the_child_gives_what_the_function_gives():
    """The process boundary changes nothing."""
    ligand = make_ligand("CC(=O)[O-]")
    np.testing.assert_array_equal(
        generate_conformers(ligand, FEW, seed=5).coords, embed_conformers(ligand, FEW, 5).coords
    )


def test_butane_has_its_rotamers():
    """Hand count: anti and the two gauche forms, lowest first, 0.8 kcal/mol apart by MMFF94 (0.5 to 1.1)."""
    ligand = make_ligand("CCCC")
    conformers = embed_conformers(ligand, ConformerSettings(prune_rms=0.1), 7)
    mol = to_rdkit(ligand)
    angles = [
        rdMolTransforms.GetDihedralDeg(place_atoms(mol, coords).GetConformer(), 0, 1, 2, 3)
        for coords in conformers.coords
    ]
    assert len(angles) == 3
    np.testing.assert_allclose(np.abs(angles), [180, 65, 65], rtol=0, atol=5)
    assert {np.sign(angle) for angle in angles[1:]} == {-1.0, 1.0}
    energies = mmff_energies(ligand, conformers)
    assert 0.5 < energies[1] - energies[0] < 1.1


@pytest.mark.parametrize(
    ("smiles", "n_confs"),
    [
        ("C", 1),
        ("O", 1),
        ("c1ccccc1", 1),
        ("CC(C)(C)C", 1),
        ("FC(F)(F)C", 1),
        ("CC(=O)[O-]", 1),
        ("OS(=O)(=O)[O-]", 1),
    ],
)
def test_symmetric_copies_are_one_conformer(smiles, n_confs):
    """Hand count: molecules whose every rotation is a symmetry have one conformer."""
    assert embed_conformers(make_ligand(smiles), FEW, 3).n_confs == n_confs


def test_energies_rise_and_stay_in_the_window():
    """A narrower window keeps the head of the same list; energies by an independent evaluation.

    Tolerance: kcal/mol, the minimiser's own stopping criterion.
    """
    ligand = make_ligand("OCC(O)CO")
    wide, narrow = (
        embed_conformers(ligand, ConformerSettings(energy_window=window), 7) for window in (12.0, 1.0)
    )
    energies = mmff_energies(ligand, wide)
    assert (np.diff(energies) > -1e-6).all()
    assert energies[-1] - energies[0] <= 12.0
    n_inside = int((energies - energies[0] <= 1.0).sum())
    assert 0 < narrow.n_confs == n_inside < wide.n_confs
    np.testing.assert_array_equal(narrow.coords, wide.coords[:n_inside])


@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@H](F)Cl",
        "C[C@@H](F)Cl",
        "C/C=C/C#N",
        "C/C=C\\C#N",
        "C[C@@H]1C[C@H](C)C1",
        "C[C@H]1C[C@H](C)C1",
        "CC[S@](C)=O",
        "C1C[C@H]2CC[C@@H]1C2",
        "C[C@@H](O)[C@H](N)C(=O)[O-]",
    ],
)
def test_every_conformer_has_the_ligands_stereo(smiles):
    """RDKit's own perception of each geometry gives back the isomeric SMILES."""
    ligand = make_ligand(smiles)
    conformers = embed_conformers(ligand, FEW, 11)
    for coords in conformers.coords:
        mol = place_atoms(to_rdkit(ligand), coords)
        Chem.AssignStereochemistryFrom3D(mol, replaceExistingTags=True)
        assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol))) == Chem.CanonSmiles(smiles)


@pytest.mark.parametrize(("smiles", "other"), [("C[C@H](F)Cl", "C[C@@H](F)Cl"), ("F/C=C/F", "F/C=C\\F")])
def test_the_stereo_check_tells_isomers_apart(smiles, other):
    """A geometry of one isomer passes for it and fails for the other; its mirror image does the reverse."""
    coords = embed_conformers(make_ligand(smiles), FEW, 3).coords[0]
    mirror = coords * np.array([1.0, 1.0, -1.0])
    this, that = to_rdkit(make_ligand(smiles)), to_rdkit(make_ligand(other))
    assert has_stereo_of(this, coords)
    assert not has_stereo_of(that, coords)
    assert has_stereo_of(that, mirror) == ("@" in smiles)


@pytest.mark.parametrize("smiles", ["C1C[C@H]2CC[C@H]1C2", "C[C@@]12CC[C@H](C1)C2"])
def test_an_impossible_ring_fails_with_a_reason(smiles):
    """An inside-out norbornane cannot be embedded; that is a ConformerError, also through the child."""
    with pytest.raises(ConformerError, match="no three-dimensional geometry"):
        generate_conformers(make_ligand(smiles), ConformerSettings(n_embed=2), seed=1)


@pytest.mark.parametrize(
    ("n_carbons", "n_embed", "seconds"),
    [
        pytest.param(60, 2000, 0.2, id="two thousand of a long chain"),
        # RDKit's own time limit of 10 s ended this one after 27 s, with [-1] for a list of conformers.
        pytest.param(600, 1, 1.0, id="one of a chain that RDKit does not stop for"),
    ],
)
def test_the_wall_clock_limit_kills(n_carbons, n_embed, seconds):
    """An embedding that outlasts its limit is ended, kind `time`, and the message says what to change."""
    settings = ConformerSettings(n_embed=n_embed, seconds=seconds)
    with pytest.raises(ChildError, match=r"test: .* raise conformers\.seconds") as caught:
        generate_conformers(make_ligand("C" * n_carbons), settings, seed=1)
    assert (caught.value.kind, caught.value.retryable) == ("time", True)


def test_embedding_that_reports_minus_one_is_a_failure(monkeypatch):
    """RDKit's answer to its own time limit is [-1], no conformer: the same error as an empty list."""

    def with_time_limit(mol, n, options):
        options.timeout = 1
        return embed(mol, n, options)

    embed = rdDistGeom.EmbedMultipleConfs
    monkeypatch.setattr(rdDistGeom, "EmbedMultipleConfs", with_time_limit)
    with pytest.raises(ConformerError, match="no three-dimensional geometry"):
        embed_conformers(make_ligand("C" * 120), ConformerSettings(n_embed=200), 1)


def test_displaced_copies_shake_each_conformer_in_turn():
    """Mean and width of the displacements equal the normal distribution's within five standard errors."""
    coords = np.random.default_rng(0).normal(size=(3, 10, 3))
    copies = displaced_copies(Conformers(coords=coords), 600, sigma=0.04, seed=9)
    moves = copies.coords - coords[np.arange(600) % 3]
    assert copies.coords.shape == (600, 10, 3)
    n = moves.size
    assert abs(moves.mean()) < 5 * 0.04 / np.sqrt(n)
    assert abs(moves.std() - 0.04) < 5 * 0.04 / np.sqrt(2 * n)
    same = displaced_copies(Conformers(coords=coords), 600, sigma=0.04, seed=9)
    np.testing.assert_array_equal(same.coords, copies.coords)
    assert displaced_copies(Conformers(coords=coords), 0, sigma=0.04, seed=9).n_confs == 0
