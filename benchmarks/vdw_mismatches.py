"""Does our Lennard-Jones table give what Sage's own file gives, on real ligands?"""

import time

import numpy as np

from benchmarks.tables import DATA
from pipeline.library import read_library
from pipeline.ligand import standardise
from pipeline.schema import FloatArray, Ligand
from pipeline.settings import LigandRules
from pipeline.smirnoff import SmirnoffForceField, read_smirnoff
from pipeline.smirnoff.matching import find_matches, molecule_for_matching
from pipeline.vdw import assign_vdw

FORCE_FIELD = "openff_unconstrained-2.2.1.offxml"


def main() -> None:
    """Print the number of atoms whose sigma or epsilon differs in any digit; it must be 0."""
    offxml, libraries = DATA / "forcefields" / FORCE_FIELD, sorted((DATA / "libraries").glob("*.sdf"))
    if not offxml.is_file() or not libraries:
        print("vdW mismatches: skipped, no data (set PARMFLOW_DATA)")
        return
    force_field = read_smirnoff(offxml)
    n_ligands = n_atoms = n_mismatches = 0
    seconds = 0.0
    for record in read_library(libraries):
        ligand = standardise(record, LigandRules()).ligand
        start = time.perf_counter()
        assigned = np.column_stack(assign_vdw(ligand))
        seconds += time.perf_counter() - start
        n_mismatches += int((assigned != _label_in_order(force_field, ligand)).any(axis=1).sum())
        n_ligands += 1
        n_atoms += len(assigned)
    print(
        f"vdW mismatches: {n_mismatches} of {n_atoms} atoms in {n_ligands} ligands "
        f"({1e3 * seconds / n_ligands:.2f} ms per ligand)"
    )


def _label_in_order(force_field: SmirnoffForceField, ligand: Ligand) -> FloatArray:
    """Apply the file's parameters one after the other, each over the last, as the specification says it."""
    mol = molecule_for_matching(ligand)
    values = np.full((mol.GetNumAtoms(), 2), np.nan)
    for parameter in force_field.vdw:
        for (atom,) in find_matches(parameter.pattern, mol):
            values[atom] = parameter.sigma, parameter.epsilon
    return values


if __name__ == "__main__":
    main()
