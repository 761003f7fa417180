"""The torch energy against closed forms, OpenMM's Reference platform, autograd and symmetries of space."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from torch import Tensor

from models.energy import (
    EnergyTerms,
    MMIndices,
    TorchParameters,
    collate_indices,
    collate_parameters,
    energy,
    energy_and_gradient,
    indices_from_topology,
    nonbonded_energy_and_gradient,
    valence_energy_and_gradient,
)
from pipeline.export.openmm_system import build_system
from pipeline.readback.energies import compute_forces, compute_report
from pipeline.schema import CLASS1_FIELDS, MMParameters, Topology
from pipeline.topology import topology_of_molecule
from pipeline.units import COULOMB_CONSTANT

TERMS = [field.name for field in dataclasses.fields(EnergyTerms)]
MOLECULES = ["CC(=O)NC", "O=C([O-])c1ccccc1", "CC#N", "C1CC2CCC1C2", "NS(=O)(=O)CCl", "C"]


def displaced_molecule(smiles: str, n_confs: int = 3, seed: int = 1) -> tuple[Topology, np.ndarray]:
    """A topology and geometries (n_confs, n_atoms, 3) shaken by 0.08 angstrom: no term at its minimum."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    rest = mol.GetConformer().GetPositions()
    noise = np.random.default_rng(seed).normal(scale=0.08, size=(n_confs, *rest.shape))
    return topology_of_molecule(mol), rest + noise


def random_parameters(topology: Topology, seed: int = 2) -> MMParameters:
    """Parameters of usual size, all different, torsions of both signs."""
    rng = np.random.default_rng(seed)
    n_bonds, n_angles, n_atoms = len(topology.bonds), len(topology.angles), topology.n_atoms
    charge = rng.normal(scale=0.3, size=n_atoms)
    return MMParameters(
        bond_k=rng.uniform(400, 900, n_bonds),
        bond_length=rng.uniform(1.0, 1.5, n_bonds),
        angle_k=rng.uniform(50, 150, n_angles),
        angle_theta=rng.uniform(1.8, 2.3, n_angles),
        proper_k=rng.normal(size=(len(topology.propers), 6)),
        improper_k=rng.normal(size=(len(topology.impropers), 2)),
        charge=charge - charge.mean(),
        sigma=rng.uniform(1.0, 3.5, n_atoms),
        epsilon=rng.uniform(0.0, 0.2, n_atoms),
    )


def torch_system(smiles: str, n_confs: int = 3) -> tuple[MMIndices, TorchParameters, Tensor]:
    topology, geometries = displaced_molecule(smiles, n_confs)
    parameters = TorchParameters.from_mm(random_parameters(topology))
    return indices_from_topology(topology), parameters, torch.tensor(geometries).transpose(0, 1)


def empty_topology(n_atoms: int, **rows: list[list[int]]) -> Topology:
    """Atoms with only the interactions that are named."""
    names = ("bonds", "angles", "propers", "impropers", "pairs_14")
    columns = {name: np.array(rows.get(name, [])) for name in names}
    return Topology(atomic_numbers=np.full(n_atoms, 6), **columns)


def plain_parameters(topology: Topology, **values: list) -> TorchParameters:
    """Zero parameters except those that are named."""
    shapes = {
        "bond_k": len(topology.bonds),
        "bond_length": len(topology.bonds),
        "angle_k": len(topology.angles),
        "angle_theta": len(topology.angles),
        "proper_k": (len(topology.propers), 6),
        "improper_k": (len(topology.impropers), 2),
        "charge": topology.n_atoms,
        "sigma": topology.n_atoms,
        "epsilon": topology.n_atoms,
    }
    arrays = {name: values.get(name, np.zeros(shape)) for name, shape in shapes.items()}
    return TorchParameters.from_mm(MMParameters(**arrays))


def dihedral_geometry(phi: float) -> Tensor:
    """Four atoms (4, 1, 3) with right angles and a dihedral phi in radian."""
    points = [[1.0, 0, 0], [0, 0, 0], [0, 0, 1.5], [math.cos(phi), math.sin(phi), 1.5]]
    return torch.tensor(points, dtype=torch.float64)[:, None]


def test_bond_is_half_k_times_square() -> None:
    """Stretching by 0.1 angstrom at k = 600 costs 300 * 0.01 = 3 kcal/mol (rounding only)."""
    topology = empty_topology(2, bonds=[[0, 1]])
    parameters = plain_parameters(topology, bond_k=[600.0], bond_length=[1.4])
    coords = torch.tensor([[[0.0, 0, 0]], [[0, 1.5, 0]]], dtype=torch.float64)
    assert energy(indices_from_topology(topology), parameters, coords).bond.item() == pytest.approx(3.0)


def test_angle_is_half_k_times_square() -> None:
    """A right angle with rest 2.0 radian and k = 100 costs 50 (pi/2 - 2)^2 (rounding only)."""
    topology = empty_topology(3, bonds=[[0, 1], [1, 2]], angles=[[0, 1, 2]])
    parameters = plain_parameters(topology, angle_k=[100.0], angle_theta=[2.0])
    coords = torch.tensor([[[1.0, 0, 0]], [[0, 0, 0]], [[0, 2.0, 0]]], dtype=torch.float64)
    terms = energy(indices_from_topology(topology), parameters, coords)
    assert terms.angle.item() == pytest.approx(50 * (math.pi / 2 - 2) ** 2)


@pytest.mark.parametrize("phi", [0.0, 0.3, 1.9, math.pi, -2.5])
def test_proper_is_the_cosine_series(phi: float) -> None:
    """All six periodicities sum to k_n (1 + cos n phi), zero phase, negative k (rounding only)."""
    k = [1.0, -2.0, 0.5, 0.25, -0.125, 3.0]
    topology = empty_topology(
        4, bonds=[[0, 1], [1, 2], [2, 3]], angles=[[0, 1, 2], [1, 2, 3]], propers=[[0, 1, 2, 3]]
    )
    terms = energy(
        indices_from_topology(topology), plain_parameters(topology, proper_k=[k]), dihedral_geometry(phi)
    )
    expected = sum(kn * (1 + math.cos(n * phi)) for n, kn in enumerate(k, start=1))
    assert terms.proper.item() == pytest.approx(expected, abs=1e-12)


def test_nonbonded_pair_and_14_scaling() -> None:
    """Two carbons at 4 angstrom: Lennard-Jones and Coulomb by hand, and their scaled 1-4 twin."""
    coords = torch.tensor([[[0.0, 0, 0]], [[0, 0, 4.0]]], dtype=torch.float64)
    values = {"charge": [0.5, -0.25], "sigma": [3.0, 3.6], "epsilon": [0.1, 0.4]}
    sixth = (3.3 / 4.0) ** 6
    vdw, coulomb = 4 * 0.2 * (sixth**2 - sixth), -COULOMB_CONSTANT * 0.125 / 4.0
    for n_bonds, vdw_scale, coulomb_scale in ((4, 1.0, 1.0), (3, 0.5, 0.8333333333)):
        chain = [[atom, atom + 1] for atom in range(n_bonds)]
        topology = empty_topology(n_bonds + 1, bonds=chain)
        between = n_bonds - 1
        ends = {name: [first, *[0.0] * between, last] for name, (first, last) in values.items()}
        middle = torch.tensor([[[3.0 + atom, 0, 0]] for atom in range(between)], dtype=torch.float64)
        placed = torch.cat([coords[:1], middle, coords[1:]])
        terms = energy(indices_from_topology(topology), plain_parameters(topology, **ends), placed)
        assert terms.vdw.item() == pytest.approx(vdw_scale * vdw)
        assert terms.coulomb.item() == pytest.approx(coulomb_scale * coulomb)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_every_term_equals_openmm(smiles: str) -> None:
    """Each term on shaken geometries equals OpenMM's Reference platform: 1e-5 relative, its own rounding."""
    topology, geometries = displaced_molecule(smiles)
    parameters = random_parameters(topology)
    system = build_system(topology, parameters)
    coords = torch.tensor(geometries).transpose(0, 1)
    terms, gradient = energy_and_gradient(
        indices_from_topology(topology), TorchParameters.from_mm(parameters), coords
    )
    for conf, geometry in enumerate(geometries):
        report = compute_report(system, geometry)
        for name in TERMS:
            have = getattr(terms, name)[0, conf].item()
            assert have == pytest.approx(getattr(report, name), rel=1e-5, abs=1e-6), name
        forces = compute_forces(system, geometry)
        np.testing.assert_allclose(-gradient[:, conf].numpy(), forces, rtol=1e-5, atol=1e-4)


def test_float32_keeps_training_accuracy() -> None:
    """Single precision differs from double by less than 1e-3 kcal/mol per term: far below QM noise."""
    indices, parameters, coords = torch_system("CC(=O)NC")
    single = TorchParameters.from_mm(parameters.to_mm(), torch.float32)
    terms, gradient = energy_and_gradient(indices, parameters, coords)
    terms32, gradient32 = energy_and_gradient(indices, single, coords.float())
    assert gradient32.dtype == torch.float32
    for name in ("bond", "angle", "proper", "improper", "coulomb"):
        torch.testing.assert_close(getattr(terms32, name).double(), getattr(terms, name), rtol=0, atol=1e-3)
    torch.testing.assert_close(gradient32.double(), gradient, rtol=1e-4, atol=5e-2)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_closed_gradient_equals_autograd(smiles: str) -> None:
    """The written-out dE/dx and the energies beside it equal autograd's to 1e-10 relative."""
    indices, parameters, coords = torch_system(smiles)
    coords.requires_grad_()
    by_autograd = energy(indices, parameters, coords)
    (expected,) = torch.autograd.grad(by_autograd.total.sum(), coords)
    terms, gradient = energy_and_gradient(indices, parameters, coords.detach())
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(terms.total, by_autograd.total, rtol=1e-12, atol=0)


def test_energy_passes_gradcheck_twice_in_coordinates() -> None:
    """Autograd's first and second derivatives equal finite differences (torch's own tolerances)."""
    indices, parameters, coords = torch_system("CC=O", n_confs=2)
    soft = dataclasses.replace(parameters, sigma=parameters.sigma * 0.5)

    def total(x: Tensor) -> Tensor:
        return energy(indices, soft, x).total

    x = coords.clone().requires_grad_()
    assert torch.autograd.gradcheck(total, (x,), atol=1e-4, rtol=1e-4)
    assert torch.autograd.gradgradcheck(total, (x,), atol=1e-3, rtol=1e-4)


def test_closed_gradient_passes_gradcheck_in_parameters() -> None:
    """Energy and force are differentiable in every parameter, as training needs (finite differences)."""
    indices, parameters, coords = torch_system("CC=O", n_confs=2)
    names = [field.name for field in dataclasses.fields(parameters) if field.name in CLASS1_FIELDS]

    def both(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        terms, gradient = energy_and_gradient(
            indices, TorchParameters(**dict(zip(names, tensors, strict=True))), coords
        )
        return terms.total, gradient

    inputs = tuple(getattr(parameters, name).clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(both, inputs, atol=1e-4, rtol=1e-4)


def test_ragged_batch_equals_singles() -> None:
    """Molecules of different size in one batch have the energies and gradients they have alone."""
    singles = [torch_system(smiles) for smiles in MOLECULES]
    batch = collate_indices([indices for indices, _, _ in singles])
    parameters = collate_parameters([parameters for _, parameters, _ in singles])
    coords = torch.cat([coords for _, _, coords in singles])
    terms, gradient = energy_and_gradient(batch, parameters, coords)
    alone = [energy_and_gradient(*single) for single in singles]
    assert batch.n_molecules == len(MOLECULES)
    for name in TERMS:
        expected = torch.cat([getattr(single, name) for single, _ in alone])
        torch.testing.assert_close(getattr(terms, name), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.cat([g for _, g in alone]), rtol=1e-12, atol=1e-9)


def test_collating_batches_equals_collating_molecules() -> None:
    """A batch of batches numbers atoms and molecules like the flat batch (integers: exact)."""
    a, b, c = (torch_system(smiles)[0] for smiles in MOLECULES[:3])
    nested, flat = collate_indices([collate_indices([a, b]), c]), collate_indices([a, b, c])
    for field in dataclasses.fields(MMIndices):
        have, want = getattr(nested, field.name), getattr(flat, field.name)
        assert torch.equal(torch.as_tensor(have), torch.as_tensor(want)), field.name


def test_padding_with_copies_changes_nothing() -> None:
    """A repeated conformer has the same energy, and its masked copy no gradient (exact)."""
    indices, parameters, coords = torch_system("CC(=O)NC", n_confs=2)
    padded = coords[:, [0, 1, 1, 1]]
    terms, gradient = energy_and_gradient(indices, parameters, padded)
    alone, alone_gradient = energy_and_gradient(indices, parameters, coords)
    torch.testing.assert_close(terms.total[:, :2], alone.total, rtol=1e-14, atol=0)
    torch.testing.assert_close(terms.total[:, 2:], alone.total[:, [1, 1]], rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient[:, :2], alone_gradient, rtol=1e-12, atol=1e-12)


def test_rigid_motion_changes_no_energy_and_turns_the_gradient() -> None:
    """Rotation and translation: same terms, rotated gradient, no net force (1e-9: cancellation)."""
    indices, parameters, coords = torch_system("NS(=O)(=O)CCl")
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())[0]
    rotation = rotation * torch.linalg.det(rotation).sign()
    terms, gradient = energy_and_gradient(indices, parameters, coords)
    moved, turned = energy_and_gradient(indices, parameters, coords @ rotation.T + 5.0)
    torch.testing.assert_close(moved.total, terms.total, rtol=1e-9, atol=0)
    torch.testing.assert_close(turned, gradient @ rotation.T, rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(gradient.sum(0), torch.zeros_like(gradient[0]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("bend", [0.0, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_angle_is_finite(bend: float, dtype: torch.dtype) -> None:
    """Near 180 degrees no derivative is infinite; |dE/dx| <= k |theta - theta0| / r (centre: twice)."""
    topology = empty_topology(3, bonds=[[0, 1], [1, 2]], angles=[[0, 1, 2]])
    parameters = plain_parameters(topology, angle_k=[100.0], angle_theta=[2.0])
    coords = torch.tensor([[[-1.0, bend, 0]], [[0, 0, 0]], [[1.0, 0, 0]]], dtype=dtype, requires_grad=True)
    indices = indices_from_topology(topology)
    terms, gradient = valence_energy_and_gradient(indices, parameters, coords.detach())
    (by_autograd,) = torch.autograd.grad(energy(indices, parameters, coords).total.sum(), coords)
    bound = 2 * 100.0 * (math.pi - 2.0) * 1.001
    for value in (gradient, by_autograd):
        assert torch.isfinite(value).all()
        assert value.norm(dim=-1).max().item() <= bound
    assert terms.angle.item() == pytest.approx(50 * (math.pi - bend - 2) ** 2, rel=1e-5)


def test_pairs_are_all_but_12_and_13() -> None:
    """In norbornane the pair list equals a brute-force count of bonds between atoms (integers: exact)."""
    mol = Chem.AddHs(Chem.MolFromSmiles("C1CC2CCC1C2"))
    distance = Chem.GetDistanceMatrix(mol)
    indices = indices_from_topology(topology_of_molecule(mol))
    expected = {(i, j) for i in range(len(distance)) for j in range(i) if distance[i, j] >= 3}
    have = {(j, i) for i, j in indices.pairs.tolist()}
    assert have == expected
    assert len(indices.pairs) == len(expected)
    scaled = indices.pairs[indices.pair_scale_vdw == 0.5].tolist()
    assert {distance[i, j] for i, j in scaled} == {3}
    assert len(scaled) == (np.triu(distance) == 3).sum()


def test_zero_epsilon_has_finite_parameter_gradient() -> None:
    """Hydroxyl hydrogens with epsilon 0 must not turn the gradient of the whole batch into NaN."""
    topology = empty_topology(2)
    parameters = plain_parameters(topology, sigma=[3.0, 3.0], epsilon=[0.0, 0.2])
    epsilon = parameters.epsilon.clone().requires_grad_()
    coords = torch.tensor([[[0.0, 0, 0]], [[0, 0, 4.0]]], dtype=torch.float64)
    terms, _ = nonbonded_energy_and_gradient(
        indices_from_topology(topology), dataclasses.replace(parameters, epsilon=epsilon), coords
    )
    terms.total.sum().backward()
    assert terms.vdw.item() == 0.0
    assert torch.isfinite(epsilon.grad).all()


def test_parameters_survive_the_round_trip() -> None:
    """numpy -> torch -> numpy keeps every float64 bit."""
    topology, _ = displaced_molecule("CC(=O)NC")
    parameters = random_parameters(topology)
    back = TorchParameters.from_mm(parameters).to_mm()
    for name in CLASS1_FIELDS:
        np.testing.assert_array_equal(getattr(back, name), getattr(parameters, name))
