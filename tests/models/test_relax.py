"""The batched minimiser: closed forms, OpenMM's minimiser, independence of what lies beside a conformer."""

import dataclasses
from collections.abc import Callable

import numpy as np
import openmm
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from models.energy import TorchParameters, energy_and_gradient, indices_from_topology
from models.hold import HOLD_STIFFNESS, Hold
from models.preconditioner import inverse_stiffness
from models.relax import RelaxSettings, RelaxTask, relax
from pipeline.export.openmm_system import build_system
from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray, Ligand, MMParameters, Parametrized, Topology
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL

TIGHT = RelaxSettings(max_force=1e-3)
"""kcal/mol/angstrom: with stiffnesses of 1 and more the energy is within 1e-6 of the minimum's"""


def water(k: float = 900.0, length: float = 0.96, theta: float = 1.9) -> tuple[Topology, MMParameters]:
    """Two springs and an angle without any nonbonded term: the minimum is known and its energy is zero."""
    none = np.zeros((0, 4), dtype=np.int64)
    topology = Topology(
        atomic_numbers=np.array([8, 1, 1]),
        bonds=np.array([[0, 1], [0, 2]]),
        angles=np.array([[1, 0, 2]]),
        propers=none,
        impropers=none,
        pairs_14=np.zeros((0, 2), dtype=np.int64),
    )
    parameters = MMParameters(
        bond_k=np.full(2, k),
        bond_length=np.full(2, length),
        angle_k=np.array([80.0]),
        angle_theta=np.array([theta]),
        proper_k=np.zeros((0, 6)),
        improper_k=np.zeros((0, 2)),
        charge=np.zeros(3),
        sigma=np.ones(3),
        epsilon=np.zeros(3),
    )
    return topology, parameters


BENT = np.array([[0.0, 0.0, 0.0], [1.3, 0.2, 0.0], [-0.1, 0.8, 0.3]])


def conformers(ligand: Ligand, n: int, seed: int = 11) -> FloatArray:
    """RDKit conformers, shaken by 0.05 angstrom."""
    mol = to_rdkit(ligand)
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=seed)
    coords = np.array([conformer.GetPositions() for conformer in mol.GetConformers()])
    return coords + np.random.default_rng(seed).normal(scale=0.05, size=coords.shape)


def sage_like(ligand: Ligand, topology: Topology, seed: int = 2) -> MMParameters:
    """Plausible parameters from elements only, so that minima are those of a molecule."""
    rng = np.random.default_rng(seed)
    is_h = topology.atomic_numbers == 1
    has_h = is_h[topology.bonds].any(axis=1)
    charge = np.where(is_h, 0.1, -0.1) + rng.normal(scale=0.02, size=topology.n_atoms)
    proper_k = np.zeros((len(topology.propers), 6))
    proper_k[:, 1:3] = 0.1, 0.15
    return MMParameters(
        bond_k=np.where(has_h, 700.0, 600.0),
        bond_length=np.where(has_h, 1.09, 1.45),
        angle_k=np.full(len(topology.angles), 120.0),
        angle_theta=np.full(len(topology.angles), 1.95),
        proper_k=proper_k,
        improper_k=np.tile([0.0, -1.0], (len(topology.impropers), 1)),
        charge=charge - (charge.sum() - ligand.total_charge) / len(charge),
        sigma=np.where(is_h, 2.5, 3.3),
        epsilon=np.where(is_h, 0.015, 0.1),
    )


@pytest.fixture(scope="module")
def tasks(parametrize_ligand: Callable[..., Parametrized], build_ligand: Callable[..., Ligand]) -> list:
    """Conformers of four molecules: a chain, an amide, an acid and a ring; sizes differ on purpose."""
    made = []
    for smiles in ("CCCO", "CC(=O)NCc1ccccc1", "CC(=O)[O-]", "C1CCOC1"):
        ligand = build_ligand(smiles)
        topology = parametrize_ligand(ligand).topology
        parameters = sage_like(ligand, topology)
        made.append(RelaxTask(topology=topology, parameters=parameters, coords=conformers(ligand, 4)))
    return made


def forces(task: RelaxTask, coords: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Energies (n_confs,) and the largest force on any atom (n_confs,), computed anew."""
    terms, gradient = energy_and_gradient(
        indices_from_topology(task.topology),
        TorchParameters.from_mm(task.parameters),
        torch.tensor(np.array(coords)).transpose(0, 1),
    )
    return terms.total[0].numpy(), gradient.norm(dim=-1).amax(0).numpy()


def openmm_minimum(task: RelaxTask, start: FloatArray) -> tuple[float, FloatArray]:
    """Energy, kcal/mol, and geometry, angstrom, of OpenMM's own minimiser, force below 0.01 kJ/mol/nm."""
    system = build_system(task.topology, task.parameters)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(start / ANGSTROM_PER_NM)
    openmm.LocalEnergyMinimizer.minimize(context, 0.01)
    state = context.getState(getEnergy=True, getPositions=True)
    energy = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole) / KJ_PER_KCAL
    return energy, state.getPositions(asNumpy=True)._value * ANGSTROM_PER_NM


def test_springs_end_at_their_rest_values() -> None:
    """Water without nonbonded terms: lengths and angle at rest, energy zero (force 1e-3 over k 80: 1e-5)."""
    topology, parameters = water()
    relaxed = relax([RelaxTask(topology=topology, parameters=parameters, coords=BENT[None])], TIGHT)[0]
    u, v = relaxed.coords[0, 1] - relaxed.coords[0, 0], relaxed.coords[0, 2] - relaxed.coords[0, 0]
    lengths = [np.linalg.norm(u), np.linalg.norm(v)]
    np.testing.assert_allclose(lengths, 0.96, atol=1e-4)
    assert np.arccos(u @ v / np.prod(lengths)) == pytest.approx(1.9, abs=1e-4)
    assert relaxed.energy[0] == pytest.approx(0.0, abs=1e-6)
    assert relaxed.converged.all()


def test_every_conformer_ends_without_force(tasks: list) -> None:
    """Energies and forces computed anew at the end are those reported; none is above the limit."""
    for task, relaxed in zip(tasks, relax(tasks), strict=True):
        energy, force = forces(task, relaxed.coords)
        start, _ = forces(task, task.coords)
        np.testing.assert_allclose(relaxed.energy, energy, atol=1e-9)
        np.testing.assert_allclose(relaxed.largest_force, force, atol=1e-8)
        assert relaxed.converged.all()
        assert force.max() <= RelaxSettings().max_force
        assert (energy < start).all()


def test_same_minimum_as_openmm(tasks: list) -> None:
    """OpenMM started in our minimum's neighbourhood finds our minimum: energy to 1e-3 kcal/mol.

    0.02 angstrom of noise keeps it in the valley; both stop when the force is far below 0.01.
    """
    rng = np.random.default_rng(8)
    for task, relaxed in zip(tasks, relax(tasks, TIGHT), strict=True):
        for ours, energy in zip(relaxed.coords[:2], relaxed.energy[:2], strict=True):
            theirs, _ = openmm_minimum(task, ours + rng.normal(scale=0.02, size=ours.shape))
            assert energy == pytest.approx(theirs, abs=1e-3)


def test_a_minimum_stays_where_it_is(tasks: list) -> None:
    """Minimising a minimum is no step at all: one evaluation, the same coordinates to the bit."""
    first = relax(tasks[:1])[0]
    again = RelaxTask(topology=tasks[0].topology, parameters=tasks[0].parameters, coords=first.coords)
    second = relax([again])[0]
    np.testing.assert_array_equal(second.coords, first.coords)
    assert second.n_evaluations.tolist() == [1] * len(first.coords)


def test_neighbours_and_padding_change_nothing(tasks: list) -> None:
    """A conformer alone, beside others of its kind, or padded beside larger ones: the same minimum.

    Sums run in another order, so paths differ in the last bits: 1e-6 kcal/mol, 1e-3 angstrom at tight force.
    """
    together = relax(tasks, TIGHT)
    pairwise = relax(tasks, RelaxSettings(max_force=1e-3, batch_atoms=40))
    for task, big, small in zip(tasks, together, pairwise, strict=True):
        one = RelaxTask(topology=task.topology, parameters=task.parameters, coords=task.coords[1:2])
        alone = relax([one], TIGHT)[0]
        np.testing.assert_allclose(big.energy, small.energy, atol=1e-6)
        np.testing.assert_allclose(big.energy[1], alone.energy[0], atol=1e-6)
        np.testing.assert_allclose(big.coords[1], alone.coords[0], atol=1e-3)


def test_rotated_start_gives_the_rotated_minimum(tasks: list) -> None:
    """The minimiser knows no axes: energy to 1e-6 kcal/mol (rounding steers the path in the last bits)."""
    rotation, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    task = tasks[0]
    turned = RelaxTask(
        topology=task.topology, parameters=task.parameters, coords=task.coords @ rotation.T + 7.0
    )
    np.testing.assert_allclose(relax([turned], TIGHT)[0].energy, relax([task], TIGHT)[0].energy, atol=1e-6)


def test_too_few_evaluations_are_reported(tasks: list) -> None:
    """Three evaluations are too few for a shaken conformer: not converged, yet no higher than the start."""
    task = tasks[1]
    relaxed = relax([task], RelaxSettings(max_evaluations=3))[0]
    assert not relaxed.converged.any()
    assert (relaxed.n_evaluations == 3).all()
    assert (relaxed.energy <= forces(task, task.coords)[0]).all()


def test_atoms_on_top_of_each_other_are_reported(tasks: list) -> None:
    """A geometry without finite energy is not converged and does not disturb its neighbour."""
    task = tasks[0]
    broken = np.concatenate([np.zeros_like(task.coords[:1]), task.coords[:1]])
    relaxed = relax([RelaxTask(topology=task.topology, parameters=task.parameters, coords=broken)])[0]
    assert relaxed.converged.tolist() == [False, True]
    np.testing.assert_allclose(relaxed.energy[1], relax([task])[0].energy[0], atol=1e-3)


@pytest.mark.parametrize("offset", [1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 0.0])
def test_a_dihedral_nearly_in_line_is_relaxed(offset: float) -> None:
    """H-O-O almost straight, its dihedral's derivatives up to 1e10 per angstrom: rounding may leave the
    stiffness indefinite, its inverse is positive nevertheless, and the chain finds its rest.
    """
    topology = Topology(
        atomic_numbers=np.array([1, 8, 8, 1]),
        bonds=np.array([[0, 1], [1, 2], [2, 3]]),
        angles=np.array([[0, 1, 2], [1, 2, 3]]),
        propers=np.array([[0, 1, 2, 3]]),
        impropers=np.zeros((0, 4), dtype=np.int64),
        pairs_14=np.array([[0, 3]]),
    )
    parameters = MMParameters(
        bond_k=np.full(3, 900.0),
        bond_length=np.full(3, 1.0),
        angle_k=np.full(2, 80.0),
        angle_theta=np.full(2, 1.9),
        proper_k=np.array([[1.0, 2.0, 0.0, 0.0, 0.0, 0.0]]),
        improper_k=np.zeros((0, 2)),
        charge=np.zeros(4),
        sigma=np.ones(4),
        epsilon=np.zeros(4),
    )
    coords = np.array([[-1.0, offset, 0.3 * offset], [0.0, 0.0, 0.0], [1.4, 0.0, 0.0], [1.7, 0.9, 0.2]])
    indices, tensors = indices_from_topology(topology), TorchParameters.from_mm(parameters)
    inverse = inverse_stiffness(indices, tensors, torch.tensor(coords), torch.arange(4), 4)[0]
    assert torch.linalg.eigvalsh(inverse).min() > -1e-12
    relaxed = relax([RelaxTask(topology=topology, parameters=parameters, coords=coords[None])])[0]
    assert relaxed.converged.all()


def test_no_task_and_no_conformer() -> None:
    """Nothing in, nothing out."""
    topology, parameters = water()
    assert relax([]) == []
    empty = relax([RelaxTask(topology=topology, parameters=parameters, coords=np.zeros((0, 3, 3)))])[0]
    assert empty.energy.shape == (0,)


def test_inverse_stiffness_is_the_inverse_of_springs_at_rest() -> None:
    """At the rest geometry of water P - floor is the exact Hessian of the springs (finite differences)."""
    topology, parameters = water()
    rest = relax([RelaxTask(topology=topology, parameters=parameters, coords=BENT[None])], TIGHT)[0].coords[0]
    indices, tensors = indices_from_topology(topology), TorchParameters.from_mm(parameters)
    inverse = inverse_stiffness(indices, tensors, torch.tensor(rest), torch.arange(3), 3)[0].numpy()
    step, hessian = 1e-4, np.zeros((9, 9))
    for dof in range(9):
        for sign in (1.0, -1.0):
            moved = rest.reshape(-1).copy()
            moved[dof] += sign * step
            gradient = energy_and_gradient(indices, tensors, torch.tensor(moved.reshape(3, 1, 3)))[1]
            hessian[:, dof] += sign * gradient.reshape(-1).numpy() / (2 * step)
    floor = np.linalg.inv(inverse) - hessian
    # Third derivatives of stiff springs: k/r * step^2-terms and forces of 1e-3 leave below 0.02.
    np.testing.assert_allclose(floor, floor[0, 0] * np.eye(9), atol=0.02)
    assert floor[0, 0] > 0


def test_settings_refuse_what_cannot_be() -> None:
    """A force limit of zero is never reached."""
    with pytest.raises(ValueError, match="positive"):
        RelaxSettings(max_force=0.0)
    with pytest.raises(ValueError, match="at least 1"):
        RelaxSettings(n_pairs=0)


def test_chirality_survives(build_ligand: Callable[..., Ligand], parametrize_ligand: Callable) -> None:
    """Short steps do not turn a stereocentre inside out: the sign of its volume is kept."""
    ligand = build_ligand("C[C@H](O)F")
    topology = parametrize_ligand(ligand).topology
    coords = conformers(ligand, 3)
    task = RelaxTask(topology=topology, parameters=sage_like(ligand, topology), coords=coords)
    neighbours = [a.GetIdx() for a in to_rdkit(ligand).GetAtomWithIdx(1).GetNeighbors()][:3]

    def handedness(xyz: FloatArray) -> FloatArray:
        arms = xyz[:, neighbours] - xyz[:, 1:2]
        return np.sign(np.linalg.det(arms))

    assert isinstance(to_rdkit(ligand), Chem.Mol)
    np.testing.assert_array_equal(handedness(relax([task])[0].coords), handedness(coords))


HELD = (0, 1, 2, 3)
"""C-C-C-O of propanol"""


def held(task: RelaxTask, angles: list[float]) -> RelaxTask:
    """The first conformer of propanol, once for each angle (degree) at which its chain is held."""
    coords = np.repeat(task.coords[:1], len(angles), axis=0)
    return dataclasses.replace(task, coords=coords, hold=Hold(dihedral=HELD, angles=np.radians(angles)))


def dihedral(coords: FloatArray) -> float:
    """C-C-C-O by RDKit, degree."""
    conformer = Chem.Conformer(len(coords))
    conformer.SetPositions(np.array(coords))
    return rdMolTransforms.GetDihedralDeg(conformer, *HELD)


def test_a_held_dihedral_stays_and_all_else_relaxes(tasks: list) -> None:
    """Both signs and cis; off by less than what a torsion of 20 kcal/mol/radian pulls; the force that the
    force field has left is the spring's: along the dihedral's own derivative, as RDKit moves it.
    """
    angles = [70.0, -70.0, 0.0, 130.0, 180.0]
    task = held(tasks[0], angles)
    relaxed = relax([task], TIGHT)[0]
    assert relaxed.converged.all()
    ends = [dihedral(coords) for coords in relaxed.coords]
    off = (np.array(ends) - angles + 180) % 360 - 180
    assert np.abs(off).max() < np.degrees(20 / HOLD_STIFFNESS)
    indices, parameters = indices_from_topology(task.topology), TorchParameters.from_mm(task.parameters)
    coords = torch.tensor(relaxed.coords).transpose(0, 1)
    terms, gradient = energy_and_gradient(indices, parameters, coords)
    stored = HOLD_STIFFNESS * (1 - np.cos(np.radians(off)))
    np.testing.assert_allclose(relaxed.energy, terms.total[0].numpy() + stored, atol=1e-8)
    for number in (0, 3):
        pull = gradient[:, number].numpy()
        assert np.linalg.norm(pull, axis=1).max() > 0.1
        np.testing.assert_allclose(pull[4:], 0.0, atol=2e-3)
        slope = HOLD_STIFFNESS * np.sin(np.radians(off[number]))
        push = np.array([0.0, 0.0, 1e-4])
        for atom in HELD:
            by_z = []
            for sign in (1, -1):
                moved = np.array(relaxed.coords[number])
                moved[atom] += sign * push
                by_z.append(np.radians(dihedral(moved)))
            np.testing.assert_allclose(pull[atom, 2], -slope * (by_z[0] - by_z[1]) / 2e-4, atol=5e-3)


def test_a_spring_pulls_on_no_other_conformer(tasks: list) -> None:
    """Beside held conformers, in one batch, the others end where they end alone."""
    alone = relax(tasks, TIGHT)
    beside = relax([held(tasks[0], [70.0, -120.0]), *tasks], TIGHT)[1:]
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(one.energy, other.energy, atol=1e-6)
        np.testing.assert_allclose(one.coords, other.coords, atol=1e-3)
