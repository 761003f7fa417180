"""The class II terms: against the formula written out row by row, and their derivatives against autograd."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from rdkit.Chem import rdDistGeom

from models.class2 import cross_energy_and_gradient
from models.energy import energy_and_gradient, learned_energy_and_gradient
from models.targets import nonbonded_of, with_pairs, without_pairs
from models.terms import (
    EnergyTerms,
    TorchCross,
    TorchParameters,
    collate_cross,
    collate_indices,
    indices_from_topology,
)
from pipeline.export.openmm_system import build_system
from pipeline.ligand import canonical_ligand, canonical_order, to_rdkit
from pipeline.readback.energies import compute_forces, compute_report
from pipeline.schema import PAIR_FACTORS, CrossTerms, MMParameters
from pipeline.topology import build_topology, coupled_rows, restore_order

MOLECULES = ["CC(=O)NC", "C1CC1CO", "CC#N", "Cc1ccccc1F", "O"]


def random_cross(topology, rng):
    shapes = {
        "bond_k3": (len(topology.bonds),),
        "bond_k4": (len(topology.bonds),),
        "angle_k3": (len(topology.angles),),
        "angle_k4": (len(topology.angles),),
        "bond_bond": (len(topology.angles),),
        "bond_angle": (len(topology.angles), 2),
        "bond_torsion": (len(topology.propers), 3),
        "angle_torsion": (len(topology.propers), 2, 3),
        "angle_angle_torsion": (len(topology.propers),),
    }
    factors = {name: rng.uniform(0.2, 2.0, len(topology.pairs)) for name in PAIR_FACTORS}
    return CrossTerms(**{name: rng.normal(size=shape) for name, shape in shapes.items()}, **factors)


def random_rest(topology, rng):
    return rng.uniform(1.0, 1.6, len(topology.bonds)), rng.uniform(1.7, 2.1, len(topology.angles))


def random_parameters(topology, rng):
    rest, n_atoms = random_rest(topology, rng), topology.n_atoms
    return MMParameters(
        bond_k=rng.uniform(400, 900, len(topology.bonds)),
        bond_length=rest[0],
        angle_k=rng.uniform(50, 150, len(topology.angles)),
        angle_theta=rest[1],
        proper_k=rng.normal(size=(len(topology.propers), 6)),
        improper_k=rng.normal(size=(len(topology.impropers), 2)),
        charge=rng.normal(scale=0.3, size=n_atoms),
        sigma=rng.uniform(1.0, 3.5, n_atoms),
        epsilon=rng.uniform(0.05, 0.2, n_atoms),
        cross=random_cross(topology, rng),
    )


def geometry(ligand, seed=3, spread=0.05):
    mol = to_rdkit(ligand)
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    start = mol.GetConformer().GetPositions()
    return start + np.random.default_rng(seed).normal(scale=spread, size=start.shape)


def length(x, i, j):
    return np.linalg.norm(x[j] - x[i])


def angle(x, i, j, k):
    u, v = x[i] - x[j], x[k] - x[j]
    return np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))


def dihedral(x, i, j, k, m):
    b0, b1, b2 = x[i] - x[j], x[k] - x[j], x[m] - x[k]
    b1 = b1 / np.linalg.norm(b1)
    v, w = b0 - (b0 @ b1) * b1, b2 - (b2 @ b1) * b1
    return np.arctan2(np.cross(b1, v) @ w, v @ w)


def slow_energy(topology, rest, cross, x):
    """The formula of CrossTerms, one row after the other."""
    lengths = {frozenset(b): l0 for b, l0 in zip(topology.bonds.tolist(), rest[0], strict=True)}
    thetas = {
        (j, frozenset((i, k))): t0 for (i, j, k), t0 in zip(topology.angles.tolist(), rest[1], strict=True)
    }

    def stretch(i, j):
        return length(x, i, j) - lengths[frozenset((i, j))]

    def bend(i, j, k):
        return angle(x, i, j, k) - thetas[j, frozenset((i, k))]

    total = 0.0
    for row, (i, j) in enumerate(topology.bonds.tolist()):
        total += cross.bond_k3[row] * stretch(i, j) ** 3 + cross.bond_k4[row] * stretch(i, j) ** 4
    for row, (i, j, k) in enumerate(topology.angles.tolist()):
        d = bend(i, j, k)
        total += cross.angle_k3[row] * d**3 + cross.angle_k4[row] * d**4
        total += cross.bond_bond[row] * stretch(i, j) * stretch(j, k)
        total += d * (cross.bond_angle[row, 0] * stretch(i, j) + cross.bond_angle[row, 1] * stretch(j, k))
    for row, (i, j, k, m) in enumerate(topology.propers.tolist()):
        phi, ends = dihedral(x, i, j, k, m), (bend(i, j, k), bend(j, k, m))
        for n in (1, 2, 3):
            total += stretch(j, k) * cross.bond_torsion[row, n - 1] * np.cos(n * phi)
            for end in (0, 1):
                total += ends[end] * cross.angle_torsion[row, end, n - 1] * np.cos(n * phi)
        total += cross.angle_angle_torsion[row] * ends[0] * ends[1] * np.cos(phi)
    return total


def compute(topology, rest, cross, x):
    coords = torch.tensor(x)[:, None, :]
    rests = tuple(torch.tensor(values) for values in rest)
    return cross_energy_and_gradient(
        indices_from_topology(topology),
        rests,
        TorchCross.from_cross(cross),
        coords,
    )


@pytest.mark.parametrize("smiles", MOLECULES)
def test_energy_is_the_formula_row_by_row(smiles, build_ligand):
    """Random terms at a displaced geometry; both sum the same numbers in another order."""
    rng = np.random.default_rng(5)
    ligand = build_ligand(smiles)
    topology = build_topology(ligand)
    rest, cross, x = random_rest(topology, rng), random_cross(topology, rng), geometry(ligand)
    energy, _ = compute(topology, rest, cross, x)
    assert energy[0, 0].item() == pytest.approx(slow_energy(topology, rest, cross, x), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("smiles", MOLECULES)
def test_gradient_is_the_energys(smiles, build_ligand):
    """Closed derivatives against autograd through the energy, every term alive."""
    rng = np.random.default_rng(6)
    ligand = build_ligand(smiles)
    topology = build_topology(ligand)
    rest = tuple(torch.tensor(values) for values in random_rest(topology, rng))
    cross = TorchCross.from_cross(random_cross(topology, rng))
    coords = torch.tensor(geometry(ligand))[:, None, :].requires_grad_(True)
    energy, gradient = cross_energy_and_gradient(indices_from_topology(topology), rest, cross, coords)
    (by_autograd,) = torch.autograd.grad(energy.sum(), coords)
    torch.testing.assert_close(gradient, by_autograd, rtol=1e-8, atol=1e-8)


def test_batch_is_single(build_ligand):
    """Two molecules side by side: each keeps its energy and gradient."""
    rng = np.random.default_rng(7)
    parts = []
    for smiles in ("CC(=O)NC", "Cc1ccccc1F"):
        ligand = build_ligand(smiles)
        topology = build_topology(ligand)
        parts.append((topology, random_rest(topology, rng), random_cross(topology, rng), geometry(ligand)))
    topologies = [part[0] for part in parts]
    joined = collate_cross([TorchCross.from_cross(part[2]) for part in parts])
    rest = tuple(torch.tensor(np.concatenate([part[1][which] for part in parts])) for which in (0, 1))
    coords = torch.tensor(np.concatenate([part[3] for part in parts]))[:, None, :]
    indices = collate_indices([indices_from_topology(topology) for topology in topologies])
    energy, gradient = cross_energy_and_gradient(indices, rest, joined, coords)
    alone = [compute(*part) for part in parts]
    torch.testing.assert_close(energy, torch.cat([e for e, _ in alone]), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(gradient, torch.cat([g for _, g in alone]), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_another_atom_order_changes_labels_only(seed, build_ligand):
    """`restore_order` turns rows around; the ends of a coupling turn with them."""
    rng = np.random.default_rng(seed)
    n_atoms = to_rdkit(build_ligand("CC(O)C(=O)NC")).GetNumAtoms()
    ligand = build_ligand("CC(O)C(=O)NC", rng.permutation(n_atoms))
    order = canonical_order(ligand)
    topology = build_topology(canonical_ligand(ligand))
    parameters, x = random_parameters(topology, rng), geometry(ligand)
    restored, relabelled = restore_order(topology, parameters, order)
    before, after = (
        energy_and_gradient(
            indices_from_topology(rows), TorchParameters.from_mm(values), torch.tensor(coords)[:, None]
        )[0]
        for rows, values, coords in ((topology, parameters, x[order]), (restored, relabelled, x))
    )
    for term in ("cross", "vdw", "coulomb", "total"):
        assert getattr(after, term).item() == pytest.approx(getattr(before, term).item(), rel=1e-9), term


@pytest.mark.parametrize("smiles", MOLECULES)
def test_every_term_and_force_equals_openmm(smiles, build_ligand):
    """Factors of pairs are other sigmas and epsilons there: equal to the Reference platform's rounding."""
    rng = np.random.default_rng(11)
    ligand = build_ligand(smiles)
    topology = build_topology(ligand)
    parameters, x = random_parameters(topology, rng), geometry(ligand)
    terms, gradient = energy_and_gradient(
        indices_from_topology(topology), TorchParameters.from_mm(parameters), torch.tensor(x)[:, None]
    )
    system = build_system(topology, parameters)
    report = compute_report(system, x)
    for field in fields(EnergyTerms):
        have, want = getattr(terms, field.name).item(), getattr(report, field.name)
        assert have == pytest.approx(want, rel=1e-5, abs=1e-6), field.name
    forces = compute_forces(system, x)
    np.testing.assert_allclose(-gradient[:, 0].numpy(), forces, rtol=1e-5, atol=1e-3)


def test_what_is_learned_and_class1s_nonbonded_part_are_the_whole(build_ligand):
    """Training takes the nonbonded part of class I out of the QM: the factors count from there."""
    rng = np.random.default_rng(12)
    ligand = build_ligand("CC(=O)NC")
    topology = build_topology(ligand)
    indices = indices_from_topology(topology)
    parameters = TorchParameters.from_mm(random_parameters(topology, rng))
    coords = torch.tensor(geometry(ligand))[:, None]
    nonbonded = (parameters.charge, parameters.sigma, parameters.epsilon)
    fixed, fixed_gradient = nonbonded_of(indices, nonbonded, coords)
    learned, gradient = learned_energy_and_gradient(with_pairs(without_pairs(indices)), parameters, coords)
    whole, whole_gradient = energy_and_gradient(indices, parameters, coords)
    assert learned.vdw.abs().item() > 0.1
    assert learned.coulomb.abs().item() > 0.1
    torch.testing.assert_close(learned.total + fixed, whole.total, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(gradient + fixed_gradient, whole_gradient, rtol=1e-10, atol=1e-10)


def test_coupled_rows_of_water_and_methanol(build_ligand):
    """Water couples its two bonds; in methanol every proper holds the C-O bond."""
    water = build_topology(build_ligand("O"))
    assert sorted(coupled_rows(water).angle_bonds[0].tolist()) == [0, 1]
    ligand = build_ligand("CO")
    methanol = build_topology(ligand)
    (carbon_oxygen,) = np.flatnonzero((methanol.bonds == [0, 1]).all(axis=1))
    assert coupled_rows(methanol).proper_bond.tolist() == [carbon_oxygen] * 3
