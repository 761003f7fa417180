"""Standardise: from a record's molecule to a Ligand, or a refusal with a reason."""

from rdkit import Chem

from pipeline.errors import RecordError
from pipeline.schema import Ligand


def to_rdkit(ligand: Ligand) -> Chem.Mol:
    """Build the RDKit molecule of a ligand, atoms in the ligand's order, no map numbers, no conformer."""
    options = Chem.SmilesParserParams()
    options.removeHs = False
    mol = Chem.MolFromSmiles(ligand.mapped_smiles, options)
    if mol is None:
        raise RecordError(f"{ligand.name}: RDKit cannot read the mapped SMILES {ligand.mapped_smiles!r}")
    order: list[int] = [0] * mol.GetNumAtoms()
    for atom in mol.GetAtoms():
        order[atom.GetAtomMapNum() - 1] = atom.GetIdx()
    mol = Chem.RenumberAtoms(mol, order)
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol
