"""What a pattern matches looks like the term it was drawn from: the lemma that spares most searches."""

import numpy as np
import pytest

from pipeline.export.lookalikes import Colours, Lookalikes
from pipeline.export.smarts import Environment
from pipeline.ligand import to_rdkit
from pipeline.topology import build_topology, list_linear_chains

LIBRARIES = {
    "rings and chains": ("C1CCCCC1C", "C1CCCCCC1", "CCCCCC", "C1CC1C2CC2", "C12C3C4C1C5C2C3C45"),
    "series": ("Cc1ccc(O)cc1", "Cc1ccc(N)cc1", "CCc1ccc(O)cc1", "Cc1cccc(O)c1"),
    "linear": ("CC#CC", "CC#N", "C=C=CC", "CN=[N+]=[N-]", "CC(C)C#N"),
    "small": ("[H][H]", "O", "C", "CO", "[NH4+]", "F"),
}
FORWARDS = {2: ((0, 1), (1, 0)), 4: ((0, 1, 2, 3), (3, 2, 1, 0))}


def _chains(topology, width):
    rows = topology.bonds if width == 2 else [*topology.propers.tolist(), *list_linear_chains(topology)]
    return np.array(rows, dtype=np.int64).reshape(-1, width)


@pytest.mark.parametrize("width", FORWARDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_pattern_matches_look_alikes_only(library, width, build_ligand):
    """Every match of every shell's pattern, in every ligand, is in the class of the term that was drawn."""
    ligands = [build_ligand(smiles) for smiles in LIBRARIES[library]]
    environments = [Environment(to_rdkit(ligand)) for ligand in ligands]
    atoms = [_chains(build_topology(ligand), width) for ligand in ligands]
    lookalikes = Lookalikes(Colours(environments), atoms, FORWARDS[width])
    numbers = [(owner, tuple(row)) for owner, rows in enumerate(atoms) for row in rows.tolist()]
    row_of = {(owner, spelled): n for n, (owner, row) in enumerate(numbers) for spelled in (row, row[::-1])}
    for number, (owner, row) in enumerate(numbers):
        for shell, drawn in enumerate(environments[owner].shells(row)):
            smarts = environments[owner].draw(row, drawn)
            matched = {row_of[i, hit] for i, env in enumerate(environments) for hit in env.match(smarts)}
            assert number in matched
            assert matched <= set(lookalikes.members(number, shell).tolist())


def test_equal_values_need_no_shell_and_only_rings_tell_some_terms_apart(build_ligand):
    """Bonds of one kind with equal values: shell 0. Decalin and bicyclopentyl have the same trees."""
    environments = [Environment(to_rdkit(build_ligand(s))) for s in ("C1CCC2CCCCC2C1", "C1CCC(C1)C1CCCC1")]
    atoms = [np.array([[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()] for bond in one.mol.GetBonds()])
             for one in environments]  # fmt: skip
    lookalikes = Lookalikes(Colours(environments), atoms, FORWARDS[2])
    n_bonds = sum(map(len, atoms))
    allowed = np.full((n_bonds, 1), 1e-6)
    assert not lookalikes.first_shell_of_equals(np.ones((n_bonds, 1)), allowed).any()
    by_ligand = np.repeat([1.0, 2.0], [len(rows) for rows in atoms])[:, None]
    first = lookalikes.first_shell_of_equals(by_ligand, allowed)
    assert (first >= 0).all()
    assert first.max() > 0
