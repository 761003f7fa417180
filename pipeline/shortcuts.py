"""Short cuts through OpenMM and ParmEd while files are read back: the same numbers in less time.

Both libraries pass every number through `openmm.unit` and through OpenMM's Python layer, which looks at each
for a unit. For plain floats the functions here do at once what the libraries' own come to, and hand all else
to those. No step of reading or building is replaced.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import openmm
import parmed
from openmm import _openmm, unit

_FORCE_METHODS = (
    (openmm.HarmonicBondForce, "addBond"),
    (openmm.HarmonicAngleForce, "addAngle"),
    (openmm.PeriodicTorsionForce, "addTorsion"),
    (openmm.NonbondedForce, "addParticle"),
    (openmm.NonbondedForce, "addException"),
)


@contextlib.contextmanager
def shortcuts() -> Iterator[None]:
    """Take the short cuts inside the block; threads may enter and leave in any order."""
    try:
        for owner, name, short in _SHORT:
            setattr(owner, name, short)
        yield
    finally:
        for owner, name, original in _ORIGINAL:
            setattr(owner, name, original)


def _method(force: type, name: str) -> Callable[..., Any]:
    """Hand plain numbers to C++ directly; its error tells those that have units."""
    original, call = getattr(force, name), getattr(_openmm, f"{force.__name__}_{name}")

    def add(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            return original(self, *args, **kwargs)
        try:
            return call(self.this, *args)
        except (TypeError, ValueError):
            return original(self, *args)

    return add


_value_in_unit = unit.Quantity.value_in_unit
_value_in_unit_system = unit.Quantity.value_in_unit_system
_times_unit = unit.Unit.__mul__
_strip_units = parmed.topologyobjects._strip_units

_factors: dict[tuple[int, int], tuple[Any, Any, float]] = {}
"""from a unit to another, or to a system of units, by their ids; both are held, that the ids stay theirs"""


def _to_unit(self: Any, other: Any) -> Any:
    if type(self._value) is not float:
        return _value_in_unit(self, other)
    known = _factors.get((id(self.unit), id(other)))
    if known is None:
        value = _value_in_unit(self, other)  # or its TypeError
        _factors[id(self.unit), id(other)] = self.unit, other, self.unit.conversion_factor_to(other)
        return value
    return self._value * known[2]


def _to_system(self: Any, system: Any) -> Any:
    if type(self._value) is not float:
        return _value_in_unit_system(self, system)
    known = _factors.get((id(self.unit), id(system)))
    if known is None:
        factor = self.unit.conversion_factor_to(system.express_unit(self.unit))
        known = _factors[id(self.unit), id(system)] = self.unit, system, factor
    return self._value * known[2]


def _times(self: Any, other: Any) -> Any:
    return unit.Quantity(other, self) if type(other) is float else _times_unit(self, other)


def _strip(value: Any, unit: Any = None) -> Any:
    return value if type(value) is float else _strip_units(value, unit)


_Atom = parmed.topologyobjects.Atom
_exclusion_partners = _Atom.exclusion_partners


def _partners_left(self: Any) -> Any:
    """Of no exclusions nothing is left when bonded partners are taken off."""
    return _exclusion_partners.fget(self) if self._exclusion_partners else []


_SHORT: tuple[tuple[Any, str, Any], ...] = (
    *((force, name, _method(force, name)) for force, name in _FORCE_METHODS),
    (unit.Quantity, "value_in_unit", _to_unit),
    (unit.Quantity, "value_in_unit_system", _to_system),
    (unit.Unit, "__mul__", _times),
    (unit.Unit, "__rmul__", _times),
    (parmed.topologyobjects, "_strip_units", _strip),
    (_Atom, "exclusion_partners", property(_partners_left)),
)
_ORIGINAL = tuple((owner, name, getattr(owner, name)) for owner, name, _ in _SHORT)
