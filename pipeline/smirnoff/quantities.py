"""The quantities of an OFFXML file, `1.09 * angstrom ** 1`, in internal units."""

import math
import re
from functools import lru_cache
from typing import NamedTuple

from pipeline.errors import ParametersError
from pipeline.units import ANGSTROM_PER_BOHR, ANGSTROM_PER_NM, DEGREE_PER_RADIAN, KJ_PER_KCAL

FILE_KIND = "force-field-file"
"""The kind of every error about a file that does not follow the specification."""

MAX_QUANTITY_CHARS = 200


class Dimension(NamedTuple):
    """Powers of length, energy, amount of substance, angle and charge."""

    length: int = 0
    energy: int = 0
    amount: int = 0
    angle: int = 0
    charge: int = 0

    def times(self, other: "Dimension", power: int) -> "Dimension":
        """Return the dimension of this quantity times the other to a power."""
        return Dimension(
            self.length + power * other.length,
            self.energy + power * other.energy,
            self.amount + power * other.amount,
            self.angle + power * other.angle,
            self.charge + power * other.charge,
        )


DIMENSIONLESS = Dimension()
LENGTH = Dimension(length=1)
ANGLE = Dimension(angle=1)
CHARGE = Dimension(charge=1)
MOLAR_ENERGY = Dimension(energy=1, amount=-1)
BOND_FORCE_CONSTANT = Dimension(energy=1, amount=-1, length=-2)
ANGLE_FORCE_CONSTANT = Dimension(energy=1, amount=-1, angle=-2)

_SINGULAR: dict[str, tuple[float, Dimension]] = {
    "angstrom": (1.0, LENGTH),
    "nanometer": (ANGSTROM_PER_NM, LENGTH),
    "picometer": (ANGSTROM_PER_NM / 1000.0, LENGTH),
    "bohr": (ANGSTROM_PER_BOHR, LENGTH),
    "radian": (1.0, ANGLE),
    "degree": (1.0 / DEGREE_PER_RADIAN, ANGLE),
    "mole": (1.0, Dimension(amount=1)),
    "kilocalorie": (1.0, Dimension(energy=1)),
    "kilojoule": (1.0 / KJ_PER_KCAL, Dimension(energy=1)),
    "elementary_charge": (1.0, CHARGE),
}
_PER_MOLE = {
    f"{name}_per_mole": (factor, MOLAR_ENERGY)
    for unit, (factor, dimension) in _SINGULAR.items()
    if dimension == Dimension(energy=1)
    for name in (unit, f"{unit}s")
}
UNITS = _SINGULAR | {f"{name}s": unit for name, unit in _SINGULAR.items()} | _PER_MOLE
"""Name -> (value in internal units, dimension)."""

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_UNIT = re.compile(r"\s*([*/])\s*([A-Za-z_]+)(?:\s*\*\*\s*([+-]?[1-9])(?!\d))?")
"""times or divided by, a unit, its power"""


def parse_quantity(text: str, dimension: Dimension) -> float:
    """Read a number with its units and return it in internal units (angstrom, kcal/mol, radian, e).

    A product or quotient of one number and named units with integer powers, e.g. `620.0 *
    kilocalories_per_mole/angstrom**2`. Raises ParametersError for anything else, for an unknown unit, for
    another dimension than the one expected, and for a number that is not finite.
    """
    if len(text) > MAX_QUANTITY_CHARS:
        raise ParametersError(f"a quantity of {len(text)} characters", kind=FILE_KIND)
    number = _NUMBER.match(text)
    if number is None:
        raise ParametersError(f"{text!r} is not a number times units", kind=FILE_KIND)
    factor, found = _read_units(text[number.end() :])
    if found != dimension:
        raise ParametersError(f"{text!r}: the units do not fit: expected {dimension}", kind=FILE_KIND)
    value = float(number[1]) * factor
    if not math.isfinite(value):
        raise ParametersError(f"{text!r} is not finite", kind=FILE_KIND)
    return value


@lru_cache(maxsize=1024)
def _read_units(text: str) -> tuple[float, Dimension]:
    """Multiply `(* | /) unit [** integer] ...` from left to right, as Python would."""
    factor, dimension = 1.0, DIMENSIONLESS
    text, position = text.rstrip(), 0
    while position < len(text):
        match = _UNIT.match(text, position)
        if match is None:
            raise ParametersError(f"{text!r} is not a product of units", kind=FILE_KIND)
        sign, name, exponent = match.groups()
        if name not in UNITS:
            raise ParametersError(f"{text!r}: unknown unit {name!r}", kind=FILE_KIND)
        power = int(exponent or 1) * (1 if sign == "*" else -1)
        factor, dimension = factor * UNITS[name][0] ** power, dimension.times(UNITS[name][1], power)
        position = match.end()
    return factor, dimension
