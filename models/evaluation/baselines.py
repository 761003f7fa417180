"""What a new force field must beat: MMFF94 by RDKit, and SMIRNOFF force fields with AM1-BCC charges."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers
from rdkit.Geometry import Point3D

from models.dataset import QMExample
from models.evaluation.scoring import Method, Parametrise, Prediction, class1_method
from pipeline.errors import ParametersError, SettingsError
from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray, Ligand, MMParameters, Topology
from pipeline.smirnoff import label, read_smirnoff

Charges = Callable[[Ligand], FloatArray]
"""Gives (n_atoms,) elementary charges, in the ligand's atom order."""


def mmff94_energies(ligand: Ligand, coords: FloatArray) -> FloatArray:
    """Compute MMFF94 single points (n_confs,), kcal/mol, of coords (n_confs, n_atoms, 3), angstrom.

    Halgren, J. Comput. Chem. 17, 490 (1996), as RDKit has it. Raises ParametersError for untyped atoms.
    """
    return mmff94_prediction(ligand, coords).energy


def mmff94_prediction(ligand: Ligand, coords: FloatArray) -> Prediction:
    """Compute MMFF94 energies and gradients of coords (n_confs, n_atoms, 3), angstrom."""
    mol = to_rdkit(ligand)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol, mmffVariant="MMFF94")
    if properties is None:
        raise ParametersError(f"{ligand.name}: MMFF94 has no type for an atom", kind="mmff94")
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for index, (x, y, z) in enumerate(np.asarray(coords[0], dtype=np.float64).tolist()):
        conformer.SetAtomPosition(index, Point3D(x, y, z))
    mol.AddConformer(conformer)
    # 1000 angstrom: no pair is cut off, so the force field of one conformer serves them all.
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties, nonBondedThresh=1000.0)
    flat = [points.tolist() for points in np.asarray(coords, dtype=np.float64).reshape(len(coords), -1)]
    gradient = np.array([field.CalcGrad(points) for points in flat]).reshape(coords.shape)
    return Prediction(energy=np.array([field.CalcEnergy(points) for points in flat]), gradient=gradient)


def mmff94_method(example: QMExample) -> Prediction:
    """Do the same for a row of a data table."""
    return mmff94_prediction(example.ligand, example.coords.astype(np.float64))


def smirnoff_method(force_field: Path, charges: Charges) -> Method:
    """Make a method of an OFFXML file, read by our own reader, and charges from elsewhere."""
    return class1_method(smirnoff_parametrise(force_field, charges))


def smirnoff_parametrise(force_field: Path, charges: Charges) -> Parametrise:
    """Make an OFFXML file and a source of charges into something that assigns class I parameters."""
    parsed = read_smirnoff(force_field)

    def parametrise(ligand: Ligand, topology: Topology) -> MMParameters:
        return label(parsed, ligand, topology, charges=charges(ligand))

    return parametrise


def read_charge_table(path: Path) -> Charges:
    """Read a table of charges (columns key, mapped_smiles, charges) and look ligands up in it.

    A ligand is found by its mapped SMILES or, with its atoms in another order, by its key: the canonical
    SMILES without stereo, which is the ligand's name in the data tables. The residual of the sum is spread
    evenly. The lookup raises ParametersError for a molecule that is not there.
    """
    if not path.is_file():
        raise SettingsError(f"no charge table {path}; see data/qm/README.md for how it is made")
    table = pd.read_parquet(path, columns=["key", "mapped_smiles", "charges"])
    by_smiles = dict(zip(table["mapped_smiles"], table["charges"], strict=True))
    by_key = dict(zip(table["key"], table["mapped_smiles"], strict=True))

    def look_up(ligand: Ligand) -> FloatArray:
        if ligand.mapped_smiles in by_smiles:
            charges = np.array(by_smiles[ligand.mapped_smiles], dtype=np.float64)
        elif ligand.name in by_key:
            charges = _in_order_of(ligand, by_key[ligand.name], by_smiles[by_key[ligand.name]])
        else:
            raise ParametersError(f"{ligand.name}: no charges in {path.name}", kind="charges")
        return charges + (ligand.total_charge - charges.sum()) / len(charges)

    return look_up


def _in_order_of(ligand: Ligand, mapped_smiles: str, charges: FloatArray) -> FloatArray:
    """Bring charges from one atom order into the ligand's by matching the two graphs."""
    twin = Ligand(name=ligand.name, mapped_smiles=mapped_smiles, total_charge=ligand.total_charge)
    match = to_rdkit(twin).GetSubstructMatch(to_rdkit(ligand), useChirality=False)
    if len(match) != len(charges):
        raise ParametersError(f"{ligand.name}: the charge table holds another molecule", kind="charges")
    return np.asarray(charges, dtype=np.float64)[list(match)]
