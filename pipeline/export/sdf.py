"""SDF: the molecule itself, V2000, in the user's atom order, with its partial charges."""

import textwrap

from rdkit import Chem
from rdkit.Geometry import Point3D

from pipeline.errors import ExportError
from pipeline.export.naming import printable
from pipeline.ligand import to_rdkit
from pipeline.schema import Parametrized

CHARGE_PROPERTY = "atom.dprop.PartialCharge"
"""RDKit's list of one double per atom, where the OpenFF toolkit looks for partial charges."""

MAX_ATOMS_V2000 = 999


def write_sdf(parametrized: Parametrized) -> str:
    """Write one V2000 record; the title is the user's name, the charges are the force field's."""
    ligand = parametrized.ligand
    if parametrized.coords is None:
        raise ExportError(f"{ligand.name}: no coordinates, so no SDF")
    mol = to_rdkit(ligand)
    if mol.GetNumAtoms() > MAX_ATOMS_V2000:
        raise ExportError(f"{ligand.name}: {mol.GetNumAtoms()} atoms, more than a V2000 record can hold")
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for index, position in enumerate(parametrized.coords.tolist()):
        conformer.SetAtomPosition(index, Point3D(*position))
    mol.AddConformer(conformer)
    mol.SetProp("_Name", printable(ligand.name, 80))
    charges = " ".join(f"{charge:.16g}" for charge in parametrized.parameters.charge.tolist())
    blocks = [Chem.MolToMolBlock(mol), _property(CHARGE_PROPERTY, charges)]
    blocks += [_property(f"parmflow.{key}", value) for key, value in parametrized.provenance]
    return "".join(blocks) + "$$$$\n"


def _property(name: str, value: str) -> str:
    """Lay out one data item; no line longer than the format's 200 characters."""
    lines = textwrap.wrap(printable(value, len(value)), 190) or ["-"]
    return f">  <{printable(name, 80)}>\n" + "\n".join(lines) + "\n\n"
