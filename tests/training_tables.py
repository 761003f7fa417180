"""Training tables and a configuration so small that training takes seconds, from a made-up force field."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from models.charges import ChargeEnsemble, ChargeNetwork
from models.config import NetworkConfig
from models.network import ValenceEnsemble, ValenceNetwork
from models.weights import Model
from pipeline.schema import Ligand
from pipeline.topology import build_topology
from pipeline.units import KCAL_PER_HARTREE

MOLECULES = ("CCO", "CC(=O)N", "CCl", "c1ccoc1", "CC#N", "CS", "C[NH3+]", "OCC=O")
OFFXML = """<?xml version="1.0" encoding="utf-8"?>
<SMIRNOFF version="0.3" aromaticity_model="OEAroModel_MDL">
  <Bonds version="0.3" potential="harmonic">
    <Bond smirks="[*:1]~[*:2]" k="700*mole**-1*angstrom**-2*kilocalorie" length="1.4*angstrom" id="b"/>
    <Bond smirks="[*:1]-[#1:2]" k="740*mole**-1*angstrom**-2*kilocalorie" length="1.09*angstrom" id="h"/>
  </Bonds>
  <Angles version="0.3" potential="harmonic">
    <Angle smirks="[*:1]~[*:2]~[*:3]" k="120*mole**-1*radian**-2*kilocalorie" angle="112*degree" id="a"/>
  </Angles>
  <ProperTorsions version="0.3" potential="k*(1+cos(periodicity*theta-phase))" default_idivf="auto">
    <Proper smirks="[*:1]~[*:2]~[*:3]~[*:4]" periodicity1="3" phase1="0*degree"
            k1="0.2*mole**-1*kilocalorie" idivf1="1" id="t"/>
  </ProperTorsions>
  <vdW version="0.3" potential="Lennard-Jones-12-6" combining_rules="Lorentz-Berthelot" scale12="0.0"
       scale13="0.0" scale14="0.5" scale15="1.0" cutoff="9*angstrom"
       switch_width="1*angstrom" method="cutoff">
    <Atom smirks="[*:1]" epsilon="0.1*mole**-1*kilocalorie" sigma="3.0*angstrom" id="n"/>
  </vdW>
</SMIRNOFF>
"""
CONFIG = """
name = "tiny"
version = "0.1"
seed = 3
[charges]
network = { width = 16, n_layers = 2 }
schedule = { epochs = 3, batch_molecules = 4, learning_rate = 5e-3 }
[prior]
force_field = "tiny.offxml"
schedule = { epochs = 3, batch_molecules = 4, learning_rate = 5e-3 }
[valence]
network = { width = 16, n_layers = 2, pi = true }
schedule = { epochs = 3, batch_molecules = 4, learning_rate = 5e-3 }
sources = { gen2-torsion = 0 }
dev_minima = 0
members = 2
[class2]
pairs = true
schedule = { epochs = 2, batch_molecules = 4, learning_rate = 5e-3 }
"""
GOES_ON = """
name = "tiny"
version = "0.1"
seed = 3
start = "START"
[prior]
force_field = "tiny.offxml"
[valence]
network = { width = 16, n_layers = 2, pi = true }
sources = { gen2-torsion = 0 }
dev_minima = 0
members = 2
[class2]
pairs = true
"""
"""on from `CONFIG`, whose weights are in the folder START"""


def untrained_model() -> Model:
    """One small network of each kind, the same every time."""
    torch.manual_seed(5)
    size = NetworkConfig(width=24, n_layers=2)
    return Model(
        name="m",
        version="1.0",
        sha256="",
        charges=ChargeEnsemble([ChargeNetwork(24, 2)]).double(),
        valence=ValenceEnsemble([ValenceNetwork(24, 2).double()]),
        sizes={"charges": size, "valence": size},
    )


def geometries(smiles: str, n: int) -> np.ndarray:
    """Thermally displaced copies of one embedded geometry, (n, n_atoms, 3) angstrom."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    AllChem.MMFFOptimizeMolecule(mol)
    start = mol.GetConformer().GetPositions()
    return start + np.random.default_rng(1).normal(scale=0.04, size=(n, *start.shape))


def make_rows(build_ligand: Callable[..., Ligand], split: str, n_points: int = 6) -> pd.DataFrame:
    """A table in the format of the training data; energies of a spring to the first geometry."""
    rows = []
    for smiles in MOLECULES:
        ligand, coords = build_ligand(smiles), geometries(smiles, n_points)
        displacement = coords - coords.mean(axis=0)
        rows.append(
            {
                "source": "gen2-torsion",
                "kind": "torsiondrive",
                "level": "test",
                "key": smiles,
                "mapped_smiles": ligand.mapped_smiles,
                "charge": ligand.total_charge,
                "n_atoms": coords.shape[1],
                "n_confs": n_points,
                "atomic_numbers": build_topology(ligand).atomic_numbers,
                "coords": coords.astype(np.float32).ravel(),
                "energy": 300.0 * (displacement**2).sum(axis=(1, 2)),
                "gradient": (600.0 * displacement).astype(np.float32).ravel(),
                "dihedral": None,
                "grid": None,
                "split": split,
                "charges": np.full(coords.shape[1], ligand.total_charge / coords.shape[1]),
            }
        )
    return pd.DataFrame(rows)


PROFILE_ANGLES = np.arange(-165.0, 181.0, 15.0)
"""degree"""


def profile_row(smiles: str, pattern: str, energies: np.ndarray) -> dict[str, object]:
    """A row of a profile table: an embedded molecule, and energies, kcal/mol, at `PROFILE_ANGLES`."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=4) == 0
    dihedral = mol.GetSubstructMatch(Chem.MolFromSmarts(pattern))
    tagged = Chem.Mol(mol)
    for number, atom in enumerate(dihedral, start=1):
        tagged.GetAtomWithIdx(atom).SetAtomMapNum(number)
    return {
        "key": smiles,
        "method": "b3lyp-d3bj/dzvp",
        "molblock": Chem.MolToMolBlock(mol),
        "dihedral_idx": list(dihedral),
        "smiles_tagged": Chem.MolToSmiles(tagged),
        "angles": PROFILE_ANGLES,
        "energy_hartree": energies / KCAL_PER_HARTREE - 100.0,
    }


def write_training_tables(parent: Path, build_ligand: Callable[..., Ligand]) -> Path:
    """The folder `data` with tables and prior, and `tiny.toml` beside it; the folder."""
    folder = parent / "data"
    (folder / "qm").mkdir(parents=True)
    (folder / "charges").mkdir()
    tables = [make_rows(build_ligand, split) for split in ("train", "dev")]
    for table, split in zip(tables, ("train", "dev"), strict=True):
        table.drop(columns="charges").to_parquet(folder / "qm" / f"{split}.parquet")
    pd.concat(tables).to_parquet(folder / "charges" / "am1bcc.parquet")
    (folder / "tiny.offxml").write_text(OFFXML)
    (parent / "tiny.toml").write_text(CONFIG)
    return folder
