"""OpenMM's custom forces for what a class II force field adds, one force per kind of row.

The formula is that of `pipeline.schema.CrossTerms`, in kJ/mol, nm and radian.
"""

from collections.abc import Callable, Sequence

import numpy as np
import openmm

from pipeline.schema import CrossTerms, FloatArray, MMParameters, Topology
from pipeline.topology import coupled_rows
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL

_BOND = "k3*d^3 + k4*d^4; d=r-length"
_ANGLE = "k3*d^3 + k4*d^4; d=theta-angle"
_IN_ANGLE = (
    "bb*d1*d2 + (ba1*d1+ba2*d2)*(angle(p1,p2,p3)-angle0); "
    "d1=distance(p1,p2)-length1; d2=distance(p2,p3)-length2"
)
_SERIES = "*cos(phi)+{0}2*cos(2*phi)+{0}3*cos(3*phi)"
_IN_PROPER = (
    f"(distance(p2,p3)-length)*(b1{_SERIES.format('b')}) + d1*(c1{_SERIES.format('c')}) "
    f"+ d2*(e1{_SERIES.format('e')}) + aat*d1*d2*cos(phi); "
    "d1=angle(p1,p2,p3)-angle1; d2=angle(p2,p3,p4)-angle2; phi=dihedral(p1,p2,p3,p4)"
)
_PER_LENGTH = KJ_PER_KCAL * ANGSTROM_PER_NM
"""of a force constant, kcal/mol/angstrom to kJ/mol/nm"""


def build_cross_forces(topology: Topology, parameters: MMParameters, group: int) -> list[openmm.Force]:
    """Build the forces of `parameters.cross`, all in one force group; none where there are no such terms."""
    cross = parameters.cross
    if cross is None:
        return []
    forces = [
        _bond_force(topology, parameters, cross),
        _angle_force(topology, parameters, cross),
        _coupled_angle_force(topology, parameters, cross),
        _coupled_proper_force(topology, parameters, cross),
    ]
    for force in forces:
        force.setForceGroup(group)
    return forces


def _bond_force(topology: Topology, parameters: MMParameters, cross: CrossTerms) -> openmm.Force:
    force = openmm.CustomBondForce(_BOND)
    force.setName("anharmonic bonds")
    _name_parameters(force.addPerBondParameter, "length k3 k4")
    columns = (
        parameters.bond_length / ANGSTROM_PER_NM,
        cross.bond_k3 * (KJ_PER_KCAL * ANGSTROM_PER_NM**3),
        cross.bond_k4 * (KJ_PER_KCAL * ANGSTROM_PER_NM**4),
    )
    for atoms, values in zip(topology.bonds.tolist(), _rows(columns), strict=True):
        force.addBond(*atoms, values)
    return force


def _angle_force(topology: Topology, parameters: MMParameters, cross: CrossTerms) -> openmm.Force:
    force = openmm.CustomAngleForce(_ANGLE)
    force.setName("anharmonic angles")
    _name_parameters(force.addPerAngleParameter, "angle k3 k4")
    columns = (parameters.angle_theta, cross.angle_k3 * KJ_PER_KCAL, cross.angle_k4 * KJ_PER_KCAL)
    for atoms, values in zip(topology.angles.tolist(), _rows(columns), strict=True):
        force.addAngle(*atoms, values)
    return force


def _coupled_angle_force(topology: Topology, parameters: MMParameters, cross: CrossTerms) -> openmm.Force:
    force = openmm.CustomCompoundBondForce(3, _IN_ANGLE)
    force.setName("couplings in angles")
    _name_parameters(force.addPerBondParameter, "length1 length2 angle0 bb ba1 ba2")
    lengths = parameters.bond_length[coupled_rows(topology).angle_bonds] / ANGSTROM_PER_NM
    columns = (
        *lengths.T,
        parameters.angle_theta,
        cross.bond_bond * (KJ_PER_KCAL * ANGSTROM_PER_NM**2),
        *(cross.bond_angle.T * _PER_LENGTH),
    )
    for atoms, values in zip(topology.angles.tolist(), _rows(columns), strict=True):
        force.addBond(atoms, values)
    return force


def _coupled_proper_force(topology: Topology, parameters: MMParameters, cross: CrossTerms) -> openmm.Force:
    force = openmm.CustomCompoundBondForce(4, _IN_PROPER)
    force.setName("couplings in propers")
    _name_parameters(force.addPerBondParameter, "length angle1 angle2 b1 b2 b3 c1 c2 c3 e1 e2 e3 aat")
    rows = coupled_rows(topology)
    columns = (
        parameters.bond_length[rows.proper_bond] / ANGSTROM_PER_NM,
        *parameters.angle_theta[rows.proper_angles].T,
        *(cross.bond_torsion.T * _PER_LENGTH),
        *(cross.angle_torsion.reshape(len(topology.propers), 6).T * KJ_PER_KCAL),
        cross.angle_angle_torsion * KJ_PER_KCAL,
    )
    for atoms, values in zip(topology.propers.tolist(), _rows(columns), strict=True):
        force.addBond(atoms, values)
    return force


def _name_parameters(add: Callable[[str], int], names: str) -> None:
    for name in names.split():
        add(name)


def _rows(columns: Sequence[FloatArray]) -> list[list[float]]:
    rows: list[list[float]] = np.column_stack(columns).tolist()
    return rows
