"""What LAMMPS' class2 styles add to a data file, as LAMMPS' manual defines them: read into OpenMM's forces.

Like `pipeline.readback.lammps` it shares nothing with the writer, and refuses what it does not know.
"""

from collections.abc import Callable, Iterator

import openmm

from pipeline.units import ANGSTROM_PER_NM, DEGREE_PER_RADIAN, KJ_PER_KCAL

STYLES = {"bond_style": "class2", "angle_style": "class2", "dihedral_style": "hybrid class2 harmonic"}
SECTIONS = {
    "Bond Coeffs": ("bond types", 5),
    "Angle Coeffs": ("angle types", 5),
    "BondBond Coeffs": ("angle types", 4),
    "BondAngle Coeffs": ("angle types", 5),
}
"""section: the header's word for its length, and the number of columns"""
DIHEDRAL_SECTIONS = {
    "Dihedral Coeffs": 6,
    "MiddleBondTorsion Coeffs": 4,
    "EndBondTorsion Coeffs": 8,
    "AngleTorsion Coeffs": 8,
    "AngleAngleTorsion Coeffs": 3,
    "BondBond13 Coeffs": 3,
}
"""section: the number of coefficients of style class2"""
_EMPTY = {"Dihedral Coeffs": 6, "EndBondTorsion Coeffs": 6, "BondBond13 Coeffs": 1}
"""section: how many of its first coefficients must be zero, since we know no such term"""

Rows = list[list[str]]
Terms = list[tuple[list[int], list[float]]]
"""0-based atoms and coefficients of every row"""

_CUBIC = "k3*d^3 + k4*d^4; d={}-rest"
_IN_ANGLE = (
    "bb*(distance(p1,p2)-r1)*(distance(p2,p3)-r2) "
    "+ (n1*(distance(p1,p2)-q1) + n2*(distance(p2,p3)-q2))*(angle(p1,p2,p3)-rest)"
)
_IN_DIHEDRAL = (
    "(distance(p2,p3)-r2)*(a1*cos(phi) + a2*cos(2*phi) + a3*cos(3*phi)) "
    "+ (angle(p1,p2,p3)-t1)*(d1*cos(phi) + d2*cos(2*phi) + d3*cos(3*phi)) "
    "+ (angle(p2,p3,p4)-t2)*(e1*cos(phi) + e2*cos(2*phi) + e3*cos(3*phi)) "
    "+ m*(angle(p1,p2,p3)-s1)*(angle(p2,p3,p4)-s2)*cos(phi); phi=dihedral(p1,p2,p3,p4)"
)
_PER_LENGTH = KJ_PER_KCAL * ANGSTROM_PER_NM


def split_dihedral_types(sections: dict[str, Rows]) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Coefficients by type: of style class2, those of all sections in a row, and of style harmonic.

    Raises ValueError for another style, a row of the wrong length, or a term that we do not know.
    """
    class2: dict[int, list[float]] = {}
    harmonic: dict[int, list[float]] = {}
    for number, rows in enumerate(zip(*(sections[name] for name in DIHEDRAL_SECTIONS), strict=True), start=1):
        style, *words = rows[0][1:]
        if style == "harmonic" and all(row[1:] == ["skip"] for row in rows[1:]):
            harmonic[number] = [float(word) for word in words]
            continue
        class2[number] = []
        for row, (name, width) in zip(rows, DIHEDRAL_SECTIONS.items(), strict=True):
            values = [float(word) for word in row[2:]]
            if row[1] != "class2" or len(values) != width or any(values[: _EMPTY.get(name, 0)]):
                raise ValueError(f"{name}: row {' '.join(row)} is not understood")
            class2[number] += values
    return class2, harmonic


def build_class2_forces(bonds: Terms, angles: Terms, dihedrals: Terms) -> Iterator[openmm.Force]:
    """Build what class2 has beyond the quadratic terms; coefficients of all sections stand in a row."""
    bond_force = openmm.CustomBondForce(_CUBIC.format("r"))
    _name(bond_force.addPerBondParameter, "rest k3 k4")
    for atoms, (rest, _, k3, k4) in bonds:
        factors = (KJ_PER_KCAL * ANGSTROM_PER_NM**3, KJ_PER_KCAL * ANGSTROM_PER_NM**4)
        bond_force.addBond(*atoms, [rest / ANGSTROM_PER_NM, k3 * factors[0], k4 * factors[1]])
    yield bond_force
    angle_force = openmm.CustomAngleForce(_CUBIC.format("theta"))
    _name(angle_force.addPerAngleParameter, "rest k3 k4")
    in_angle = openmm.CustomCompoundBondForce(3, _IN_ANGLE)
    _name(in_angle.addPerBondParameter, "rest bb r1 r2 n1 n2 q1 q2")
    for atoms, (degrees, _, k3, k4, bb, r1, r2, n1, n2, q1, q2) in angles:
        rest = degrees / DEGREE_PER_RADIAN
        angle_force.addAngle(*atoms, [rest, k3 * KJ_PER_KCAL, k4 * KJ_PER_KCAL])
        lengths = [length / ANGSTROM_PER_NM for length in (r1, r2, q1, q2)]
        bond_bond = bb * KJ_PER_KCAL * ANGSTROM_PER_NM**2
        in_angle.addBond(
            atoms, [rest, bond_bond, *lengths[:2], n1 * _PER_LENGTH, n2 * _PER_LENGTH, *lengths[2:]]
        )
    yield angle_force
    yield in_angle
    yield _dihedral_force(dihedrals)


def _dihedral_force(dihedrals: Terms) -> openmm.Force:
    force = openmm.CustomCompoundBondForce(4, _IN_DIHEDRAL)
    _name(force.addPerBondParameter, "a1 a2 a3 r2 d1 d2 d3 e1 e2 e3 t1 t2 m s1 s2")
    for atoms, values in dihedrals:
        middle, angle_torsion, angle_angle = values[6:10], values[18:26], values[26:29]
        force.addBond(
            atoms,
            [
                *(value * _PER_LENGTH for value in middle[:3]),
                middle[3] / ANGSTROM_PER_NM,
                *(value * KJ_PER_KCAL for value in angle_torsion[:6]),
                *(value / DEGREE_PER_RADIAN for value in angle_torsion[6:]),
                angle_angle[0] * KJ_PER_KCAL,
                *(value / DEGREE_PER_RADIAN for value in angle_angle[1:]),
            ],
        )
    return force


def _name(add: Callable[[str], int], names: str) -> None:
    for name in names.split():
        add(name)
