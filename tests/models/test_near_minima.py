"""The surface around a DFT minimum: stationary where it must be, curved as the cheap level is."""

import numpy as np
import pytest
import torch
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from models.terms import indices_from_topology
from models.training.near_minima import (
    CONTACT_STIFFNESS,
    KT,
    anchor_at,
    displace_along,
    measure_internals,
    soft_modes,
    soft_projections,
)
from pipeline.ligand import to_rdkit
from pipeline.topology import build_topology

MOLECULES = ["CC(=O)NC", "Cc1ccccc1F", "C1CC1CO"]


@pytest.fixture(params=MOLECULES)
def molecule(request, build_ligand):
    """Interactions, geometry, and a metric of one stiffness for all coordinates of a kind."""
    ligand = build_ligand(request.param)
    mol, topology = to_rdkit(ligand), build_topology(ligand)
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=2) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    sizes = [len(topology.bonds), len(topology.angles), len(topology.propers) + len(topology.impropers)]
    stiffness = np.repeat([700.0, 120.0, 2.0], sizes)
    return indices_from_topology(topology), mol.GetConformer().GetPositions(), stiffness


def wrong_surface(x0):
    """A cheap level: energy and gradient of a spring to a point 0.05 angstrom off, rotating with nothing."""
    off = x0 + np.random.default_rng(0).normal(scale=0.05, size=x0.shape)

    def compute(x):
        return 150.0 * ((x - off) ** 2).sum(), 300.0 * (x - off)

    return compute


def test_jacobian_is_the_change_of_the_values(molecule):
    """Central differences of bonds, angles and dihedrals, 1e-6 angstrom, to the square of the step."""
    indices, x0, _ = molecule
    here = measure_internals(indices, x0)
    step = np.random.default_rng(1).normal(size=x0.shape) * 1e-4
    change = measure_internals(indices, x0 + step).difference(measure_internals(indices, x0 - step)) / 2
    np.testing.assert_allclose(change, here.jacobian @ step.reshape(-1), atol=1e-9)


def test_the_minimum_becomes_stationary(molecule):
    """At the anchor the corrected energy is zero and the gradient vanishes but for rigid motions."""
    indices, x0, stiffness = molecule
    compute = wrong_surface(x0)
    anchor = anchor_at(indices, x0, stiffness, compute(x0))
    energy, gradient, turn = anchor.relative(x0, *compute(x0))
    assert (energy, turn) == (0.0, 0.0)
    rigid_free = gradient.reshape(-1) @ np.linalg.pinv(anchor.internals.jacobian) @ anchor.internals.jacobian
    assert np.abs(rigid_free).max() < 1e-3 * np.abs(compute(x0)[1]).max()


def test_corrected_gradient_is_the_corrected_energys(molecule):
    """Central difference of the corrected energy along a random direction, away from the anchor."""
    indices, x0, stiffness = molecule
    compute = wrong_surface(x0)
    anchor = anchor_at(indices, x0, stiffness, compute(x0))
    rng = np.random.default_rng(3)
    x, step = x0 + rng.normal(scale=0.05, size=x0.shape), rng.normal(size=x0.shape) * 1e-4
    up, down = (anchor.relative(y, *compute(y))[0] for y in (x + step, x - step))
    _, gradient, _ = anchor.relative(x, *compute(x))
    assert (up - down) / 2 == pytest.approx((gradient * step).sum(), rel=1e-5, abs=1e-8)


def test_modes_deform_and_hold_their_share(molecule):
    """No soft mode moves the molecule as a whole, and displacements cost kT/2 per mode on average."""
    indices, x0, stiffness = molecule
    internals = measure_internals(indices, x0)
    values, vectors = soft_modes(internals, stiffness, 10)
    assert (np.diff(values) >= 0).all()
    shifts = vectors.reshape(len(vectors), -1, 3).sum(axis=1)
    np.testing.assert_allclose(shifts, 0.0, atol=1e-6)
    rng = np.random.default_rng(4)
    metric = internals.jacobian.T @ (stiffness[:, None] * internals.jacobian)
    costs = []
    for _ in range(400):
        d = displace_along((values, vectors), KT, rng).reshape(-1)
        costs.append(0.5 * d @ metric @ d)
    # 400 draws of a sum of ten: the mean is known to 3 %
    assert np.mean(costs) == pytest.approx(len(values) * KT / 2, rel=0.15)


def test_a_force_along_a_mode_costs_its_square_over_twice_the_stiffness(molecule):
    """The force (lambda + floor) a u along a mode costs (lambda + floor) a^2 / 2, float16 to a percent."""
    indices, x0, stiffness = molecule
    values, vectors = soft_modes(measure_internals(indices, x0), stiffness, 6)
    rows = soft_projections(indices, stiffness, torch.tensor(x0)[:, None, :], 6)[0].double().numpy()
    for value, vector in zip(values, vectors, strict=True):
        force = (value + CONTACT_STIFFNESS) * 0.1 * vector
        cost = 0.5 * (value + CONTACT_STIFFNESS) * 0.01
        assert 0.5 * ((rows @ force) ** 2).sum() == pytest.approx(cost, rel=1e-2)
