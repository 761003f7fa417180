"""Lennard-Jones parameters by SMARTS: the published values of OpenFF Sage 2.2.1, in `vdw_sage.csv`.

Credit: Open Force Field Initiative, openff-2.2.1.offxml, CC-BY-4.0. The table includes TIP3P water, the
alkali and halide ions, and xenon.
"""

import csv
from functools import cache
from importlib import resources

import numpy as np

from pipeline.atoms import atoms_of
from pipeline.errors import ParametersError
from pipeline.ligand import to_rdkit
from pipeline.resonance import shared_charges
from pipeline.schema import FloatArray, Ligand
from pipeline.smirnoff.matching import Pattern, assign_last, compile_pattern, name_atoms

TABLE = "vdw_sage.csv"


def assign_vdw(ligand: Ligand) -> tuple[FloatArray, FloatArray]:
    """Look up the Lennard-Jones parameters of every atom of a ligand.

    Returns sigma (n_atoms,) in angstrom and epsilon (n_atoms,) in kcal/mol. Raises ParametersError for an
    element that the table does not have.

    No pattern of the table asks for aromaticity, so the molecule needs no particular aromaticity model. Some
    ask for formal charges: an atom counts as charged where every resonance form charges it, so that the
    drawing does not matter. Hydrogens beside a guanidinium are then those beside an amine, as in Amber (type
    H1 in arginine, HP in lysine).
    """
    mol = to_rdkit(ligand)
    if any(atom.GetFormalCharge() > 0 for atom in atoms_of(mol)):
        for atom, charge in zip(atoms_of(mol), shared_charges(mol), strict=True):
            atom.SetFormalCharge(charge)
    patterns, values = _read_table()
    atoms = [(i,) for i in range(mol.GetNumAtoms())]
    winners = assign_last(patterns, mol, atoms, tuple)
    missing = [atom[0] for atom in atoms if atom not in winners]
    if missing:
        raise ParametersError(
            f"{ligand.name}: no Lennard-Jones parameters for {name_atoms(mol, missing[:1])}"
        )
    sigma, epsilon = values[[winners[atom] for atom in atoms]].T.copy()
    return sigma, epsilon


@cache
def _read_table() -> tuple[tuple[Pattern, ...], FloatArray]:
    """Read the table once: compiled patterns, and (n_types, 2) with sigma and epsilon."""
    lines = resources.files("pipeline").joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    patterns = tuple(compile_pattern(row["smirks"], 1) for row in rows)
    values = np.array([[float(row["sigma_angstrom"]), float(row["epsilon_kcal_per_mol"])] for row in rows])
    values.setflags(write=False)
    return patterns, values
