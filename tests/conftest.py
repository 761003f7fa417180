"""What every test may ask for."""

from collections.abc import Callable, Sequence

import pytest
import torch
from rdkit import Chem

from pipeline.schema import Ligand

torch.set_num_threads(1)

LigandBuilder = Callable[..., Ligand]


def _build(smiles: str, order: Sequence[int] | None = None) -> Ligand:
    """Add hydrogens and map numbers; `order[i]` is the old index of the new atom i."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if order is not None:
        mol = Chem.RenumberAtoms(mol, [int(i) for i in order])
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    charge = Chem.GetFormalCharge(mol)
    return Ligand(name=smiles, mapped_smiles=Chem.MolToSmiles(mol), total_charge=charge)


@pytest.fixture(scope="session")
def build_ligand() -> LigandBuilder:
    """SMILES (and an atom order) -> Ligand."""
    return _build
