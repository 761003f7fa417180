"""What every test may ask for."""

import os
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch
from hypothesis import settings
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from pipeline.database import Place
from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray, IntArray, Ligand, MMParameters, Parametrized
from pipeline.topology import build_topology
from tests.postgres_server import PostgresServer

torch.set_num_threads(1)

settings.register_profile("any machine", deadline=None)  # a busy machine is no error
settings.load_profile("any machine")


# A shell starts what runs in the background deaf to Ctrl-C, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure() -> None:
    """Where PARMFLOW_REQUIRE names programs, as in CI, their tests must run: missing ones are an error."""
    missing = [name for name in os.environ.get("PARMFLOW_REQUIRE", "").split() if which(name) is None]
    if missing:
        raise pytest.UsageError(f"PARMFLOW_REQUIRE: not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")  # gone before other modules look at the processes of the test run
def postgres() -> Iterator[str]:
    """Address of a PostgreSQL server of our own, gone at the end."""
    server = PostgresServer()
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of one module's own, for its tests to stop and start."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def make_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Place]:
    """Name -> an empty place for a ledger or a store, in each of the two kinds of database."""
    if request.param == "sqlite":
        return lambda name: Place.of_file(tmp_path / f"{name}.sqlite")
    url, run = request.getfixturevalue("postgres"), uuid.uuid4().hex[:16]
    return lambda name: Place(url=url, schema=f"{name}_{run}")


@pytest.fixture
def place(make_place: Callable[[str], Place]) -> Place:
    """An empty place for a ledger or a store, in each of the two kinds of database."""
    return make_place("place")


LigandBuilder = Callable[..., Ligand]

EXPORT_MOLECULES = {
    "hydrogen": "[H][H]",
    "hydrogen chloride": "Cl",
    "water": "O",
    "methane": "C",
    "cation": "C[N+](C)(C)C",
    "guanidinium": "NC(N)=[NH2+]",
    "acetate": "CC(=O)[O-]",
    "zwitterion": "[NH3+]CC(=O)[O-]",
    "nitro": "C[N+](=O)[O-]",
    "sulfonamide": "NS(=O)(=O)c1ccccc1",
    "phosphate": "COP(=O)([O-])[O-]",
    "halogens": "FC(Cl)=C(Br)I",
    "nitrile": "CC#N",
    "alkyne": "CC#C",
    "allene": "C=C=C",
    "azide": "CN=[N+]=[N-]",
    "isocyanide": "C[N+]#[C-]",
    "N-oxide": "[O-][n+]1ccccc1",
    "cyclopropane": "C1CC1",
    "cyclopropene": "C1=CC1",
    "cyclobutane": "C1CCC1",
    "five-ring": "c1cc[nH]c1",
    "six-ring": "c1ccccc1",
    "norbornane": "C1CC2CCC1C2",
    "cubane": "C12C3C4C1C5C2C3C45",
    "spiro": "C1CC12CCC2",
    "macrocycle": "O=C1CCCCCCCCCCO1",
    "biaryl": "c1ccc(-c2ccccn2)cc1",
    "amide": "CC(=O)Nc1ccc(O)cc1",
    "disulfide": "CSSC",
    "sulfone": "CS(=O)(=O)C",
    "chiral": "C[C@H](N)C(=O)O",
    "108 atoms": "CCCCCCCCCCCCCCCC(=O)OCC(O)COC(=O)CCCCCCCCCCCCCCC",
}
"""what every exporter must carry: two or many atoms, ions, rings of every size, linear centres, elements"""


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


@pytest.fixture(scope="session", params=EXPORT_MOLECULES.values(), ids=EXPORT_MOLECULES.keys())
def export_smiles(request: pytest.FixtureRequest) -> str:
    """SMILES of one molecule after the other that every exporter must carry."""
    smiles: str = request.param
    return smiles


def _symmetry_classes(mol: Chem.Mol) -> list[int]:
    """Rank the atoms of the bare graph, without bond orders, charges and stereo; equivalent atoms tie."""
    bare = Chem.RWMol(mol)
    for atom in bare.GetAtoms():
        atom.SetFormalCharge(0)
        atom.SetIsAromatic(False)
        atom.SetNoImplicit(True)
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond in bare.GetBonds():
        bond.SetIsAromatic(False)
        bond.SetStereo(Chem.BondStereo.STEREONONE)
        bond.SetBondType(Chem.BondType.SINGLE)
    return list(Chem.CanonicalRankAtoms(bare, breakTies=False, includeChirality=False))


def _draw(classes: list[int], rows: IntArray, seed: int, low: list[float], high: list[float]) -> FloatArray:
    """Uniform numbers per row, the same for equivalent rows, in any atom order: (n_rows, len(low))."""
    values = []
    for row in rows.tolist():
        forward = [classes[atom] for atom in row]
        key = min(forward, forward[::-1])
        values.append(np.random.default_rng([seed, len(row), *key]).uniform(low, high))
    return np.array(values).reshape(len(rows), len(low))


def _parametrize(ligand: Ligand, coords: FloatArray | None = None, seed: int = 0) -> Parametrized:
    """Give a ligand random physical parameters, symmetric where its graph is, and a conformer."""
    mol, topology = to_rdkit(ligand), build_topology(ligand)
    classes = _symmetry_classes(mol)
    if coords is None:
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed + 1, useRandomCoords=True) == 0
        coords = mol.GetConformer().GetPositions()
    atoms = np.arange(topology.n_atoms)[:, None]
    charge, sigma, epsilon = _draw(classes, atoms, seed, [-0.8, 2.0, 0.01], [0.8, 3.5, 0.2]).T
    bond_k, bond_length = _draw(classes, topology.bonds, seed, [400, 1.0], [1200, 1.6]).T
    angle_k, angle_theta = _draw(classes, topology.angles, seed, [60, 1.6], [250, 2.3]).T
    per_centre = _draw(classes, topology.impropers[::3, 1:2], seed + 1, [-1, -2], [1, 2])
    parameters = MMParameters(
        bond_k=bond_k,
        bond_length=bond_length,
        angle_k=angle_k,
        angle_theta=angle_theta,
        proper_k=_draw(classes, topology.propers, seed, [-3.0] * 6, [3.0] * 6),
        improper_k=np.repeat(per_centre, 3, axis=0),
        charge=charge + (ligand.total_charge - charge.sum()) / len(charge),
        sigma=sigma,
        epsilon=epsilon,
    )
    return Parametrized(
        id="ligand-0123456789",
        ligand=ligand,
        topology=topology,
        parameters=parameters,
        coords=coords,
        provenance=(("model", "random/1"),),
    )


@pytest.fixture(scope="session")
def parametrize_ligand() -> Callable[..., Parametrized]:
    """Ligand (and coordinates, a seed) -> Parametrized with random, symmetric, physical parameters."""
    return _parametrize
