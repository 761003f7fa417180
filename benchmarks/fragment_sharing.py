"""How many torsion drives a congeneric series needs, with fragments shared between ligands and without."""

import time
from collections.abc import Iterator
from itertools import islice, product

import numpy as np
from rdkit import Chem

from benchmarks.tables import DATA
from pipeline.fragments.drive_plan import plan_drives
from pipeline.library import read_library
from pipeline.ligand import ligand_from_rdkit, standardise, to_rdkit
from pipeline.schema import Ligand
from pipeline.settings import FragmentSettings, LigandRules

LIBRARIES = ("cdk2", "tyk2")

# A series as a project makes it: amides of 2-anilino-4-arylpyrimidines, three places varied, 10 x 10 x 10.
SCAFFOLD = "O=C(N{amine})c1ccc(Nc2nccc({aryl})n2)c({ortho})c1"
AMINES = ("C", "CC", "C(C)C", "C1CC1", "CCO", "CCOC", "CCN(C)C", "Cc1ccccc1", "c1ccccc1", "C1CCOCC1")
ARYLS = (
    *("c3ccccc3", "c3cccnc3", "c3ccncc3", "c3ccc(F)cc3", "c3ccc(OC)cc3"),
    *("c3ccccc3C", "c3cccs3", "c3cnn(C)c3", "c3cccc(C#N)c3", "c3c[nH]c4ccccc34"),
)
ORTHOS = ("[H]", "F", "Cl", "C", "CC", "OC", "C#N", "C(F)(F)F", "OC(F)(F)F", "C4CC4")


def enumerate_series(size: int) -> Iterator[Ligand]:
    """Yield the first ligands of the made-up series, at most 1,000."""
    for number, (amine, aryl, ortho) in enumerate(islice(product(AMINES, ARYLS, ORTHOS), size)):
        smiles = SCAFFOLD.format(amine=amine, aryl=aryl, ortho=ortho)
        yield ligand_from_rdkit(Chem.AddHs(Chem.MolFromSmiles(smiles)), f"series-{number + 1}")


def main() -> None:
    """Print, for each library, ligands, drives without and with sharing, and sizes."""
    columns = (f"{'library':>14}", " ligands", " bonds", " drives", " ratio", "heavy atoms", " ms/ligand")
    print(" ".join(columns))
    for name in LIBRARIES:
        path = DATA / "libraries" / f"{name}.sdf"
        if not path.is_file():
            print(f"fragment sharing: {name} skipped, no data (set PARMFLOW_DATA)")
            continue
        print_sharing(name, [standardise(record, LigandRules())[0] for record in read_library([path])])
    for size in (1, 10, 100, 1000):
        print_sharing(f"series of {size}", list(enumerate_series(size)))


def print_sharing(name: str, ligands: list[Ligand]) -> None:
    """Print one line: bonds are the drives without sharing; atoms are heavy ones, per fragment and ligand."""
    start = time.perf_counter()
    plan = plan_drives(ligands, set(), FragmentSettings())
    seconds = time.perf_counter() - start
    per_fragment = np.mean([_n_heavy(drive.ligand) for drive in plan.drives])
    per_ligand = np.mean([_n_heavy(ligand) for ligand in ligands])
    print(
        f"{name:>14} {plan.n_ligands:>8} {plan.n_bonds:>6} {plan.n_drives:>7} "
        f"{plan.n_bonds / plan.n_drives:>6.1f}x {per_fragment:>5.1f} of {per_ligand:.1f} "
        f"{1e3 * seconds / plan.n_ligands:>9.1f}"
    )


def _n_heavy(ligand: Ligand) -> int:
    return int(to_rdkit(ligand).GetNumHeavyAtoms())


if __name__ == "__main__":
    main()
