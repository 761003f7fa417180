"""Do two programs give one answer? psi4 against pyscf, dgl against torch; and how large each storey is."""

import time
from pathlib import Path
from shutil import which

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from models.features import build_graph
from models.gnn import GraphEncoder
from models.graph import collate_graphs
from pipeline.ligand import ligand_from_rdkit
from pipeline.process.child import Limits
from pipeline.qm.door import run_task
from pipeline.qm.levels import spec_by_name
from pipeline.schema import Ligand, QMRecord, QMTask
from pipeline.units import KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR, KCAL_PER_HARTREE

MOLECULES = ("CO", "C[NH3+]", "CC#N")
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print the largest differences, and the lines of code per storey."""
    if which("psi4") is None:
        print("psi4 against pyscf: skipped, psi4 is not installed")
    else:
        for smiles in MOLECULES:
            _compare_engines(smiles)
    _compare_aggregations()
    for storey in ("flows", "models", "pipeline", "tests"):
        n_lines = sum(len(path.read_text().splitlines()) for path in (ROOT / storey).rglob("*.py"))
        print(f"{storey}: {n_lines} lines of Python")


def _embed(smiles: str) -> tuple[Ligand, np.ndarray, np.ndarray]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return ligand_from_rdkit(mol, smiles), numbers, mol.GetConformer().GetPositions()


def _compare_engines(smiles: str) -> None:
    ligand, numbers, coords = _embed(smiles)
    records: list[QMRecord] = []
    seconds = []
    for program in ("psi4", "pyscf"):
        task = QMTask(
            ligand_key=smiles,
            atomic_numbers=numbers,
            coords=coords,
            total_charge=ligand.total_charge,
            spec=spec_by_name("openff-default", program),
        )
        start = time.perf_counter()
        records.append(run_task(task, Limits(wall_seconds=600, memory_mb=4096)))
        seconds.append(time.perf_counter() - start)
    psi4, pyscf = records
    energy = abs(psi4.energy - pyscf.energy) / KCAL_PER_HARTREE
    gradient = np.abs(np.asarray(psi4.gradient) - np.asarray(pyscf.gradient)).max()
    gradient /= KCAL_PER_ANGSTROM_PER_HARTREE_PER_BOHR
    print(
        f"psi4 against pyscf, {psi4.spec.level}, {smiles}: {energy:.1e} hartree, {gradient:.1e} hartree/bohr "
        f"({seconds[0]:.1f} s against {seconds[1]:.1f} s)"
    )


def _compare_aggregations() -> None:
    torch.manual_seed(1)
    encoder = GraphEncoder(128, 4).double().requires_grad_(False)
    batch = collate_graphs([build_graph(_embed(smiles)[0]) for smiles in MOLECULES], dtype=torch.float64)
    one, other = encoder(batch, "dgl"), encoder(batch, "torch")
    print(f"dgl against torch: {((one - other).abs().max() / other.abs().max()).item():.1e} relative")


if __name__ == "__main__":
    main()
