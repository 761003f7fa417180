"""Read an OFFXML file into a SmirnoffForceField. The file is foreign: bounded and checked, never trusted."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Set
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from pipeline.errors import ParametersError
from pipeline.smirnoff import quantities as q
from pipeline.smirnoff.force_field import (
    AngleType,
    BondType,
    Constraint,
    LibraryCharge,
    SmirnoffForceField,
    TorsionTerm,
    TorsionType,
    VdwType,
)
from pipeline.smirnoff.matching import compile_pattern

MAX_BYTES = 100_000_000
"""A library.offxml of 400 ligands has some 20 million."""
MAX_DEPTH = 4
MAX_ELEMENTS = 100_000
SIGMA_PER_RMIN_HALF = 2.0 / 2.0 ** (1.0 / 6.0)

_VERSIONS = {
    "SMIRNOFF": ("0.3",),
    "vdW": ("0.3", "0.4", "0.5"),
    "Electrostatics": ("0.3", "0.4"),
    "Bonds": ("0.3", "0.4"),
    "Angles": ("0.3",),
    "ProperTorsions": ("0.3", "0.4"),
    "ImproperTorsions": ("0.3",),
    "LibraryCharges": ("0.3",),
    "Constraints": ("0.3",),
}
_TORSION_POTENTIAL = "k*(1+cos(periodicity*theta-phase))"
_POTENTIALS = {
    "vdW": ("Lennard-Jones-12-6",),
    "Bonds": ("harmonic", "(k/2)*(r-length)^2"),
    "Angles": ("harmonic",),
    "ProperTorsions": (_TORSION_POTENTIAL,),
    "ImproperTorsions": (_TORSION_POTENTIAL,),
}
_CHARGE_MODELS = ("NAGLCharges", "ChargeIncrementModel", "ToolkitAM1BCC")
_COMMON_ATTRIBUTES = frozenset({"smirks", "id", "parent_id", "name"})

T = TypeVar("T")


def read_smirnoff(source: str | Path) -> SmirnoffForceField:
    """Read a SMIRNOFF force field from OFFXML text, or from the file at a Path.

    Understands SMIRNOFF 0.3: vdW, Bonds, Angles, ProperTorsions, ImproperTorsions, LibraryCharges,
    Constraints, Electrostatics; a charge model (AM1-BCC, NAGL, charge increments) is noted by name. Raises
    ParametersError of kind `force-field-file` for anything else: sections or attributes that would change
    the energy and are not supported (virtual sites, GBSA, bond-order interpolation), unknown units, entities
    or a document type, and files beyond the bounds of this module.
    """
    root = _parse(source)
    if root.tag != "SMIRNOFF":
        raise _file_error(f"the root element is {root.tag!r}, not SMIRNOFF")
    _check_version(root)
    if root.get("aromaticity_model") != "OEAroModel_MDL":
        raise _file_error(
            f"aromaticity model {root.get('aromaticity_model')!r}: only OEAroModel_MDL is known"
        )
    sections: dict[str, Element] = {}
    for section in root:
        if section.tag in sections:
            raise _file_error(f"two {section.tag} sections")
        sections[section.tag] = section
    unknown = set(sections) - set(_VERSIONS) - set(_CHARGE_MODELS) - {"Author", "Date"}
    if unknown:
        raise _file_error(f"unsupported sections: {', '.join(sorted(unknown))}")
    for section in sections.values():
        _check_section(section)
    electrostatics = sections.get("Electrostatics")
    return SmirnoffForceField(
        vdw=_read_section(sections, "vdW", "Atom", _read_vdw),
        bonds=_read_section(sections, "Bonds", "Bond", _read_bond),
        angles=_read_section(sections, "Angles", "Angle", _read_angle),
        propers=_read_section(sections, "ProperTorsions", "Proper", _read_torsion),
        impropers=_read_section(sections, "ImproperTorsions", "Improper", _read_torsion),
        library_charges=_read_section(sections, "LibraryCharges", "LibraryCharge", _read_library_charge),
        constraints=_read_section(sections, "Constraints", "Constraint", _read_constraint),
        vdw_scale14=_read_scale14(sections.get("vdW"), default=0.5),
        coulomb_scale14=_read_scale14(electrostatics, default=0.833333),
        charge_model=next((name for name in _CHARGE_MODELS if name in sections), ""),
        author=_text_of(sections.get("Author")),
        date=_text_of(sections.get("Date")),
    )


class _BoundedBuilder(TreeBuilder):
    """Builds the tree, and stops a file that is nested or long beyond any force field."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.n_elements = 0

    def start(self, tag: Any, attrs: Any, /) -> Element:
        """Open an element."""
        self.depth += 1
        self.n_elements += 1
        if self.depth > MAX_DEPTH:
            raise _file_error(f"elements nested deeper than {MAX_DEPTH}")
        if self.n_elements > MAX_ELEMENTS:
            raise _file_error(f"more than {MAX_ELEMENTS} elements")
        return super().start(tag, attrs)

    def end(self, tag: Any, /) -> Element:
        """Close an element."""
        self.depth -= 1
        return super().end(tag)


def _parse(source: str | Path) -> Element:
    """Parse within bounds; no document type, no entities, nothing fetched."""
    data = _load(source)
    parser = DefusedXMLParser(target=_BoundedBuilder(), forbid_dtd=True)
    try:
        parser.feed(data)
        root: Element = parser.close()
    except ParseError as error:
        raise _file_error(f"not well-formed XML: {error}") from error
    except DefusedXmlException as error:  # a ValueError itself, so before the next
        raise _file_error(f"a document type or an entity, which no force field needs: {error}") from error
    except (LookupError, ValueError) as error:  # what expat's codecs raise
        raise _file_error(f"an encoding that cannot be read: {error}") from error
    return root


def _load(source: str | Path) -> str | bytes:
    if isinstance(source, str):
        if len(source) > MAX_BYTES:
            raise _file_error(f"larger than {MAX_BYTES} bytes")
        return source
    try:
        with source.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _file_error(f"cannot read {source}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise _file_error(f"{source.name}: larger than {MAX_BYTES} bytes")
    return data


def _file_error(message: str) -> ParametersError:
    return ParametersError(f"OFFXML: {message}", kind=q.FILE_KIND)


def _check_version(element: Element) -> None:
    version = element.get("version")
    if version not in _VERSIONS[element.tag]:
        known = ", ".join(_VERSIONS[element.tag])
        raise _file_error(f"{element.tag} version {version!r}: known are {known}")


def _check_section(section: Element) -> None:
    """Refuse versions, functional forms and scale factors that mean another energy than ours."""
    if section.tag in _VERSIONS:
        _check_version(section)
    potentials = _POTENTIALS.get(section.tag)
    if potentials and section.get("potential", potentials[0]) not in potentials:
        raise _file_error(f"{section.tag}: potential {section.get('potential')!r} is not supported")
    if section.get("combining_rules", "Lorentz-Berthelot") != "Lorentz-Berthelot":
        raise _file_error(f"{section.tag}: combining rules {section.get('combining_rules')!r}")
    for name, usual in (("scale12", 0.0), ("scale13", 0.0), ("scale15", 1.0)):
        if _number(section.get(name, str(usual)), name) != usual:
            raise _file_error(f"{section.tag}: {name} must be {usual}")


def _read_section(
    sections: dict[str, Element], tag: str, child: str, read: Callable[[Element, Element], T]
) -> tuple[T, ...]:
    """Read each parameter of a section; say which one is wrong."""
    section = sections.get(tag)
    if section is None:
        return ()
    parameters = []
    for number, element in enumerate(section, start=1):
        if element.tag != child:
            raise _file_error(f"{tag}: unexpected element {element.tag!r}")
        try:
            parameters.append(read(element, section))
        except ParametersError as error:
            name = element.get("id", element.get("smirks", ""))
            raise _file_error(f"{tag}, {child} {number} ({name}): {error}") from error
    return tuple(parameters)


def _check_attributes(
    attributes: Iterable[str], required: Set[str], optional: frozenset[str] = frozenset()
) -> None:
    names = set(attributes)
    missing = (required | {"smirks"}) - names
    if missing:
        raise ParametersError(f"missing {', '.join(sorted(missing))}", kind=q.FILE_KIND)
    unexpected = names - required - optional - _COMMON_ATTRIBUTES
    if any("bondorder" in name for name in unexpected):
        raise ParametersError("bond-order interpolation is not supported", kind=q.FILE_KIND)
    if unexpected:
        raise ParametersError(f"unexpected {', '.join(sorted(unexpected))}", kind=q.FILE_KIND)


def _read_vdw(element: Element, _section: Element) -> VdwType:
    size = "sigma" if "sigma" in element.attrib else "rmin_half"
    _check_attributes(element.attrib, {size, "epsilon"})
    length = q.parse_quantity(element.attrib[size], q.LENGTH)
    return VdwType(
        id=element.get("id", ""),
        pattern=compile_pattern(element.attrib["smirks"], 1),
        sigma=length if size == "sigma" else length * SIGMA_PER_RMIN_HALF,
        epsilon=q.parse_quantity(element.attrib["epsilon"], q.MOLAR_ENERGY),
    )


def _read_bond(element: Element, _section: Element) -> BondType:
    _check_attributes(element.attrib, {"length", "k"})
    return BondType(
        id=element.get("id", ""),
        pattern=compile_pattern(element.attrib["smirks"], 2),
        length=q.parse_quantity(element.attrib["length"], q.LENGTH),
        k=q.parse_quantity(element.attrib["k"], q.BOND_FORCE_CONSTANT),
    )


def _read_angle(element: Element, _section: Element) -> AngleType:
    _check_attributes(element.attrib, {"angle", "k"})
    return AngleType(
        id=element.get("id", ""),
        pattern=compile_pattern(element.attrib["smirks"], 3),
        angle=q.parse_quantity(element.attrib["angle"], q.ANGLE),
        k=q.parse_quantity(element.attrib["k"], q.ANGLE_FORCE_CONSTANT),
    )


def _read_torsion(element: Element, section: Element) -> TorsionType:
    """Read `k1, phase1, periodicity1, idivf1, k2, ...`, numbered consecutively from 1."""
    attributes = element.attrib
    default_idivf = section.get("default_idivf", "auto")
    terms = tuple(
        TorsionTerm(
            periodicity=_periodicity(attributes[periodicity]),
            phase=_phase(attributes[phase]),
            k=q.parse_quantity(attributes[k], q.MOLAR_ENERGY),
            idivf=_idivf(attributes.get(idivf, default_idivf)),
        )
        for k, phase, periodicity, idivf in _torsion_attributes(tuple(attributes))
    )
    return TorsionType(
        id=element.get("id", ""), pattern=compile_pattern(element.attrib["smirks"], 4), terms=terms
    )


@lru_cache(maxsize=1000)
def _torsion_attributes(names: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
    """Check the names of a torsion's attributes; k, phase, periodicity and idivf of each of its terms."""
    numbers = range(1, _count_numbered(names, "k") + 1)
    required = {f"{name}{n}" for name in ("k", "phase", "periodicity") for n in numbers}
    _check_attributes(names, required, frozenset(f"idivf{n}" for n in numbers))
    return [(f"k{n}", f"phase{n}", f"periodicity{n}", f"idivf{n}") for n in numbers]


def _read_library_charge(element: Element, _section: Element) -> LibraryCharge:
    n_charges = _count_numbered(element.attrib, "charge")
    names = [f"charge{n}" for n in range(1, n_charges + 1)]
    _check_attributes(element.attrib, set(names))
    return LibraryCharge(
        id=element.get("id", ""),
        pattern=compile_pattern(element.attrib["smirks"], n_charges),
        charges=tuple(q.parse_quantity(element.attrib[name], q.CHARGE) for name in names),
    )


def _read_constraint(element: Element, _section: Element) -> Constraint:
    _check_attributes(element.attrib, set(), frozenset({"distance"}))
    distance = element.get("distance")
    return Constraint(
        id=element.get("id", ""),
        pattern=compile_pattern(element.attrib["smirks"], 2),
        distance=None if distance is None else q.parse_quantity(distance, q.LENGTH),
    )


def _count_numbered(names: Collection[str], prefix: str) -> int:
    """Count `prefix1, prefix2, ...`; at least the first must be there, and none may be left out."""
    count = 0
    while f"{prefix}{count + 1}" in names:
        count += 1
    n_numbered = sum(name.startswith(prefix) and name[len(prefix) :].isdecimal() for name in names)
    if not count or n_numbered != count:
        raise ParametersError(f"{prefix}1, {prefix}2, ... must be numbered consecutively", kind=q.FILE_KIND)
    return count


@lru_cache(maxsize=100)
def _phase(text: str) -> float:
    return q.parse_quantity(text, q.ANGLE)


@lru_cache(maxsize=100)
def _periodicity(text: str) -> int:
    if not re.fullmatch(r"[1-9]", text.strip()):
        raise ParametersError(f"periodicity {text!r} is not an integer from 1 to 9", kind=q.FILE_KIND)
    return int(text)


@lru_cache(maxsize=100)
def _idivf(text: str) -> float | None:
    """`auto` is None; Sage writes the integers with a decimal point."""
    if text.strip() == "auto":
        return None
    value = _number(text, "idivf")
    if value <= 0:
        raise ParametersError(f"idivf {text!r} must be positive", kind=q.FILE_KIND)
    return value


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ParametersError(f"{name} {text!r} is not a number", kind=q.FILE_KIND) from error
    if not math.isfinite(value):
        raise ParametersError(f"{name} {text!r} is not finite", kind=q.FILE_KIND)
    return value


def _read_scale14(section: Element | None, default: float) -> float:
    return default if section is None else _number(section.get("scale14", str(default)), "scale14")


def _text_of(element: Element | None) -> str:
    return "" if element is None or element.text is None else element.text.strip()
