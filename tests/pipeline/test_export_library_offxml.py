"""One OFFXML for a library of ligands made to be mistaken for each other: each gets its own parameters."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import ExportError, ParametersError
from pipeline.export.library_offxml import write_library_offxml
from pipeline.schema import CLASS1_FIELDS, Parametrized
from pipeline.smirnoff import label, read_smirnoff
from pipeline.smirnoff.matching import molecule_for_matching
from pipeline.topology import restore_order

TRAPS = {
    "one a part of another": ("C", "CC", "CCC", "CCCC", "c1ccccc1", "Cc1ccccc1", "c1ccc(cc1)-c1ccccc1"),
    "rings and chains": ("C1CC1", "C1CCC1", "C=CC", "C1=CC1", "CC#C", "C=C=C", "C12C3C4C1C5C2C3C45"),
    "tautomers": (
        "Oc1ccccn1",
        "O=c1cccc[nH]1",
        "CC(=O)CC(C)=O",
        "CC(=O)C=C(C)O",
        "Cc1c[nH]cn1",
        "Cc1cnc[nH]1",
    ),
    "protonation": ("CC(=O)O", "CC(=O)[O-]", "[NH3+]CC(=O)[O-]", "NCC(=O)O", "NCC(=O)[O-]", "[NH3+]CC(=O)O"),
    "same graph, other charge": ("O=C1C=CC(=O)C=C1", "[O-]c1ccc([O-])cc1", "Oc1ccc(O)cc1"),
    "small": ("O", "N", "[NH4+]", "[OH-]", "[H][H]", "F", "S"),
    "isomers": ("CCO", "COC", "C[N+]#[C-]", "CC#N", "CN=[N+]=[N-]", "Clc1ccccc1F", "Clc1cccc(F)c1"),
}


@pytest.fixture(scope="session")
def parametrize(build_ligand, parametrize_ligand) -> Callable[..., Parametrized]:
    """SMILES, a seed and an atom order -> Parametrized, without a geometry."""

    def build(smiles: str, seed: int = 0, order: np.ndarray | None = None) -> Parametrized:
        ligand = build_ligand(smiles, order)
        points = np.zeros((ligand.mapped_smiles.count(":"), 3))
        return replace(parametrize_ligand(ligand, points, seed), coords=None)

    return build


def assert_each_has_its_own(text: str, library: list[Parametrized]) -> None:
    """Label every ligand with the file; 1e-6 is what equal parameters of two ligands may differ by."""
    force_field = read_smirnoff(text)
    for one in library:
        labelled = label(force_field, one.ligand, one.topology)
        for name in CLASS1_FIELDS:
            np.testing.assert_allclose(
                getattr(labelled, name),
                getattr(one.parameters, name),
                rtol=2e-6,
                atol=2e-7,
                err_msg=f"{one.ligand.name}: {name}",
            )


@pytest.mark.parametrize("trap", TRAPS)
def test_look_alikes_get_their_own_parameters(trap, parametrize):
    """Every ligand of a kind, each with random parameters of its own, in either order of the library."""
    library = [parametrize(smiles, seed) for seed, smiles in enumerate(TRAPS[trap])]
    assert_each_has_its_own(write_library_offxml(library), library)
    library.reverse()
    assert_each_has_its_own(write_library_offxml(library), library)


def test_all_traps_fit_into_one_file(parametrize):
    """All of them together: forty-odd ligands in one file."""
    every = [smiles for kind in TRAPS.values() for smiles in kind]
    library = [parametrize(smiles, seed) for seed, smiles in enumerate(every)]
    assert_each_has_its_own(write_library_offxml(library), library)


@pytest.mark.parametrize("smiles", ["CCO", "C", "c1ccccc1C"])
def test_a_molecule_outside_the_library_gets_nothing(smiles, parametrize):
    """No parameter is lent to a stranger: an error instead of a neighbour's numbers."""
    text = write_library_offxml([parametrize("CC"), parametrize("CCCO"), parametrize("c1ccccc1")])
    stranger = parametrize(smiles)
    with pytest.raises(ParametersError, match="no parameter"):
        label(read_smirnoff(text), stranger.ligand, stranger.topology)


def test_a_stranger_made_of_known_parts_gets_no_charges(parametrize):
    """Pentane, where every bond looks like one of butane's or hexane's: its charges are nobody's."""
    library = [_alike(parametrize(smiles)) for smiles in ("CCCC", "CCCCCC")]
    stranger = parametrize("CCCCC")
    with pytest.raises(ParametersError, match="LibraryCharges: no charge"):
        label(read_smirnoff(write_library_offxml(library)), stranger.ligand, stranger.topology)


def _alike(parametrized: Parametrized) -> Parametrized:
    """Terms of one kind get one value each; the charges stay the ligand's own."""
    parameters = parametrized.parameters
    alike = {name: np.ones_like(getattr(parameters, name)) for name in CLASS1_FIELDS if name != "charge"}
    return replace(parametrized, parameters=replace(parameters, **alike))


def test_what_ligands_have_in_common_is_written_once(parametrize):
    """Phenols of equal parameters: a second and third ligand bring the patterns of their own parts only."""
    library = [_alike(parametrize(smiles)) for smiles in ("Oc1ccccc1", "Cc1ccc(O)cc1", "CCc1ccc(O)cc1")]
    text = write_library_offxml(library)
    assert_each_has_its_own(text, library)
    alone = [write_library_offxml([one]).count("<Angle ") for one in library]
    assert max(alone) <= text.count("<Angle ") < 0.6 * sum(alone)


@pytest.mark.parametrize("smiles", ["CC(C)(C)CC(C)(C)C", "C" * 20, "CCN(CC)CC", "c1ccccc1"])
def test_few_patterns_hold_all_charges_and_match_seldom(smiles, parametrize):
    """Fewer than kinds of atom, each placed fewer times than readers list; the charges are the ligand's."""
    one = parametrize(smiles)
    force_field = read_smirnoff(write_library_offxml([one]))
    mol = molecule_for_matching(one.ligand)
    for charge in force_field.library_charges:
        assert len(mol.GetSubstructMatches(charge.pattern.query, uniquify=False, maxMatches=1000)) < 1000
    assert len(force_field.library_charges) <= 3
    charge = label(force_field, one.ligand, one.topology).charge
    np.testing.assert_allclose(charge, one.parameters.charge, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("one", "other"),
    [("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"), ("F/C=C/Cl", "F/C=C\\Cl"), ("C1CC1O", "OC1CC1")],
)
def test_stereoisomers_with_equal_parameters_share_patterns(one, other, parametrize):
    """Two isomers, or one molecule in two atom orders: as many patterns as for one, right for both."""
    library = [parametrize(one), parametrize(other)]
    text = write_library_offxml(library)
    assert text.count("smirks") == write_library_offxml(library[:1]).count("smirks")
    assert_each_has_its_own(text, library)


@pytest.mark.parametrize(
    ("one", "other"),
    [("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"), ("F/C=C/Cl", "F/C=C\\Cl"), ("CC", "CC")],
)
def test_what_smarts_cannot_tell_apart_is_refused(one, other, parametrize):
    """The same graph with other parameters: a sentence with both names, no file that is wrong for one."""
    library = [parametrize(one, seed=1), parametrize("CCO"), parametrize(other, seed=2)]
    with pytest.raises(ExportError, match=rf"{re.escape(one)} and {re.escape(other)} .* one OFFXML per"):
        write_library_offxml(library)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_molecule_in_any_order_shares_patterns(seed, parametrize):
    """The library holds a molecule twice, its atoms shuffled: one set of patterns serves both records."""
    smiles = "CC(=O)Nc1ccc(O)cc1"
    first = parametrize(smiles)
    order = np.random.default_rng(seed).permutation(first.topology.n_atoms)
    shuffled = parametrize(smiles, order=order)
    topology, parameters = restore_order(first.topology, first.parameters, np.argsort(order))
    assert topology.bonds.tolist() == shuffled.topology.bonds.tolist()
    second = replace(shuffled, parameters=parameters)
    text = write_library_offxml([first, second])
    assert text.count("<Bond ") == write_library_offxml([first]).count("<Bond ")
    assert_each_has_its_own(text, [first, second])


def test_names_and_constraints(parametrize):
    """Hostile names leave well-formed XML; constraints come once when asked for, ids are unique."""
    water = parametrize("O")
    named = replace(water, ligand=replace(water.ligand, name="a--b<&>\x07"))
    text = write_library_offxml([named, parametrize("CO")], constraints=True)
    assert len(read_smirnoff(text).constraints) == 1
    ids = re.findall(r'<(\w+) smirks="[^"]*" id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert "<Constraints" not in write_library_offxml([named])


def test_no_match_is_cut_off_in_silence(parametrize, monkeypatch):
    """A ligand with more symmetries than matches are listed is refused (hazard 30); cubane has 48."""
    cubane = parametrize("C12C3C4C1C5C2C3C45")
    assert write_library_offxml([cubane])
    monkeypatch.setattr("pipeline.export.smarts.MAX_MATCHES", 40)
    with pytest.raises(ExportError, match="too symmetric"):
        write_library_offxml([cubane])
