"""The report itself, against arithmetic by hand, and the guard on parameters."""

from dataclasses import replace

import numpy as np
import openmm
import pytest

from pipeline.errors import ParametersError, VerificationError
from pipeline.export.openmm_system import build_system
from pipeline.readback.energies import compute_forces, compute_report
from pipeline.schema import EnergyReport, MMParameters, Parametrized, Topology
from pipeline.units import COULOMB_CONSTANT
from pipeline.verify import (
    build_reference,
    check_parameters,
    check_system,
)

MOLECULES = ["O", "CC(=O)N", "C1CC1", "CC#C", "C12C3C4C1C5C2C3C45", "C[N+](=O)[O-]"]


@pytest.fixture(params=MOLECULES)
def parametrized(request, build_ligand, parametrize_ligand) -> Parametrized:
    return parametrize_ligand(build_ligand(request.param))


def _dihedral(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    """The angle between the planes abc and bcd; the sign does not matter for phases of zero."""
    first, second = np.cross(b - a, c - b), np.cross(c - b, d - c)
    return float(np.arccos(first @ second / np.linalg.norm(first) / np.linalg.norm(second)))


def _slow_report(topology: Topology, p: MMParameters, x: np.ndarray) -> EnergyReport:
    """The formulas of MMParameters, written out with loops, centre first in impropers."""
    bond = sum(
        k / 2 * (np.linalg.norm(x[i] - x[j]) - length) ** 2
        for (i, j), k, length in zip(topology.bonds, p.bond_k, p.bond_length, strict=True)
    )
    angle = 0.0
    for (i, j, k), k_angle, theta in zip(topology.angles, p.angle_k, p.angle_theta, strict=True):
        u, v = x[i] - x[j], x[k] - x[j]
        angle += k_angle / 2 * (np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)) - theta) ** 2
    proper = sum(
        k_row[n - 1] * (1 + np.cos(n * _dihedral(*x[list(atoms)])))
        for atoms, k_row in zip(topology.propers, p.proper_k, strict=True)
        for n in range(1, 7)
    )
    improper = sum(
        k_row[n - 1] * (1 + np.cos(n * _dihedral(x[centre], x[a], x[b], x[c])))
        for (a, centre, b, c), k_row in zip(topology.impropers, p.improper_k, strict=True)
        for n in (1, 2)
    )
    close = {frozenset((i, j)) for i, j in topology.bonds.tolist()}
    close |= {frozenset((i, k)) for i, _, k in topology.angles.tolist()}
    pairs_14 = {frozenset(pair) for pair in topology.pairs_14.tolist()}
    vdw = coulomb = 0.0
    for i in range(topology.n_atoms):
        for j in range(i + 1, topology.n_atoms):
            if frozenset((i, j)) not in close:
                r = np.linalg.norm(x[i] - x[j])
                s6 = ((p.sigma[i] + p.sigma[j]) / 2 / r) ** 6
                lj = 4 * np.sqrt(p.epsilon[i] * p.epsilon[j]) * (s6**2 - s6)
                qq = COULOMB_CONSTANT * p.charge[i] * p.charge[j] / r
                is_14 = frozenset((i, j)) in pairs_14
                vdw += lj * (0.5 if is_14 else 1.0)
                coulomb += qq * (0.8333333333 if is_14 else 1.0)
    return EnergyReport(bond=bond, angle=angle, proper=proper, improper=improper, vdw=vdw, coulomb=coulomb)


@pytest.mark.parametrize("term", ["bond", "angle", "proper", "improper", "vdw", "coulomb"])
def test_report_is_the_formula_written_out(term, parametrized):
    """OpenMM's double precision gives the loops' sums to 1e-8 relative, at a displaced geometry."""
    x = build_reference(parametrized).geometries[1]
    system = build_system(parametrized.topology, parametrized.parameters)
    slow = getattr(_slow_report(parametrized.topology, parametrized.parameters, x), term)
    assert getattr(compute_report(system, x), term) == pytest.approx(slow, rel=1e-8, abs=1e-9)


def test_forces_are_the_gradient_of_the_report(parametrized):
    """Central differences of the total, step 1e-4 angstrom: error about 1e-5 of stiff bonds' forces."""
    x = build_reference(parametrized).geometries[2]
    system = build_system(parametrized.topology, parametrized.parameters)
    forces = compute_forces(system, x)
    for axis in range(3):
        step = np.zeros_like(x)
        step[0, axis] = 1e-4
        slope = (compute_report(system, x + step).total - compute_report(system, x - step).total) / 2e-4
        assert -slope == pytest.approx(forces[0, axis], rel=1e-4, abs=1e-3)


def test_planar_improper_has_dihedral_zero(build_ligand, parametrize_ligand):
    """Flat formaldehyde: centre first gives phi = 0, so each row's energy is 2 (k1 + k2)."""
    parametrized = parametrize_ligand(build_ligand("C=O"))
    flat = np.array([[0, 0, 0], [1.2, 0, 0], [-0.6, 0.9, 0], [-0.6, -0.9, 0]])
    system = build_system(parametrized.topology, parametrized.parameters)
    expected = 2 * parametrized.parameters.improper_k.sum()
    assert compute_report(system, flat).improper == pytest.approx(expected, rel=1e-9)


def test_the_delivered_system_is_flexible_and_whole(parametrized):
    """No constraint, no cutoff, one nonbonded force, exceptions for exactly the near pairs."""
    system = build_system(parametrized.topology, parametrized.parameters)
    nonbonded = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    assert system.getNumConstraints() == 0
    assert len(nonbonded) == 1
    assert nonbonded[0].getNonbondedMethod() == openmm.NonbondedForce.NoCutoff
    topology = parametrized.topology
    near = {frozenset(pair) for pair in topology.bonds.tolist()}
    near |= {frozenset((i, k)) for i, _, k in topology.angles.tolist()}
    assert nonbonded[0].getNumExceptions() == len(near) + len(topology.pairs_14)


def test_a_ligand_without_coordinates_is_still_weighed(build_ligand, parametrize_ligand):
    """The made-up geometry keeps atoms apart and lets every term of acetamide differ from zero."""
    parametrized = replace(parametrize_ligand(build_ligand("CC(=O)N")), coords=None)
    energies = vars(build_reference(parametrized).reports[0]) | {"cross": 1.0}  # which class I has not
    assert all(0 < abs(energy) < 1e7 for energy in energies.values())


def _scaled(parameters: MMParameters, name: str, factor: float) -> MMParameters:
    return replace(parameters, **{name: factor * getattr(parameters, name)})


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("bond_k", "bond"),
        ("bond_length", "bond"),
        ("angle_k", "angle"),
        ("angle_theta", "angle"),
        ("proper_k", "proper"),
        ("improper_k", "improper"),
        ("charge", "coulomb"),
        ("sigma", "vdw"),
        ("epsilon", "vdw"),
    ],
)
def test_a_small_difference_is_caught_in_its_own_term(name, term, build_ligand, parametrize_ligand):
    """Each parameter, 0.1 per cent off, is refused, and the message names the term that shows it."""
    parametrized = parametrize_ligand(build_ligand("CC(=O)NC"))
    reference = build_reference(parametrized)
    wrong = build_system(parametrized.topology, _scaled(parametrized.parameters, name, 1.001))
    with pytest.raises(VerificationError, match=f"^file read by reader: {term} energy"):
        check_system(reference, wrong, file="file", reader="reader")


def test_swapped_atoms_are_caught(build_ligand, parametrize_ligand):
    """The same molecule in another atom order is not the same file."""
    one = parametrize_ligand(build_ligand("CCO"))
    other = parametrize_ligand(build_ligand("CCO", [1, 0, *range(2, 9)]), one.coords)
    with pytest.raises(VerificationError):
        check_system(
            build_reference(one), build_system(other.topology, other.parameters), file="f", reader="r"
        )


@pytest.mark.parametrize(
    ("name", "row", "value", "message"),
    [
        ("bond_k", 0, np.nan, "bond k nan"),
        ("bond_k", 1, -1.0, r"bond k -1.0 .* atoms \(0, 3\)"),
        ("bond_length", 0, 0.0, "bond length 0.0"),
        ("bond_length", 0, np.inf, "bond length inf"),
        ("angle_k", 0, -0.1, "angle k"),
        ("angle_theta", 0, 3.2, "angle 3.2"),
        ("angle_theta", 0, 0.0, "angle 0.0"),
        ("proper_k", 0, 1000.0, "proper k"),
        ("improper_k", 0, np.nan, "improper k"),
        ("charge", 0, 7.0, "charge 7.0"),
        ("sigma", 0, 0.0, "sigma 0.0"),
        ("epsilon", 0, -0.1, "epsilon -0.1"),
    ],
)
def test_unphysical_parameters_are_refused(name, row, value, message, build_ligand, parametrize_ligand):
    """Hazard 26: what is not finite or out of range names its term and atoms; nothing is clamped."""
    parametrized = parametrize_ligand(build_ligand("CC=O"))
    values = getattr(parametrized.parameters, name).copy()
    values[row] = value
    with pytest.raises(ParametersError, match=message):
        check_parameters(
            parametrized.topology, replace(parametrized.parameters, **{name: values}), total_charge=0
        )


def test_charges_that_miss_the_integer_are_refused(build_ligand, parametrize_ligand):
    """A sum of 1e-6 e beyond the total charge is not rounding of float64."""
    parametrized = parametrize_ligand(build_ligand("CC=O"))
    charge = parametrized.parameters.charge + 1e-6
    with pytest.raises(ParametersError, match=r"sum to 0\.000007"):
        check_parameters(parametrized.topology, replace(parametrized.parameters, charge=charge), 0)


def _verdict(parametrized: Parametrized, name: str, value: float) -> str:
    """Set the first value of one parameter: the name of the error it earns, or `passes`."""
    values = getattr(parametrized.parameters, name).copy()
    values.flat[0] = value
    if name == "charge":  # the others make up for it
        values[1:] += (parametrized.parameters.charge[0] - value) / (len(values) - 1)
    parameters = replace(parametrized.parameters, **{name: values})
    try:
        check_parameters(parametrized.topology, parameters, parametrized.ligand.total_charge)
    except ParametersError as error:
        return type(error).__name__
    return "passes"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("bond_k", 0.0, 5000.0),
        ("bond_length", 0.5, 3.5),
        ("angle_k", 0.0, 2000.0),
        ("angle_theta", 1e-3, np.pi),
        ("proper_k", -100.0, 100.0),
        ("improper_k", -100.0, 100.0),
        ("charge", -5.0, 5.0),
        ("sigma", 0.1, 10.0),
        ("epsilon", 0.0, 10.0),
    ],
)
def test_physical_parameters_pass(name, low, high, build_ligand, parametrize_ligand):
    """Both ends of the physical range pass, and what lies 1e-6 beyond either does not.

    The step is far above the rounding of a sum of charges, 1e-15, and below any digit that matters.
    """
    parametrized = parametrize_ligand(build_ligand("CC=O"))
    verdicts = [_verdict(parametrized, name, value) for value in (low - 1e-6, low, high, high + 1e-6)]
    assert verdicts == ["ParametersError", "passes", "passes", "ParametersError"]
