"""OFFXML: the ligand's force field as SMIRNOFF 0.3, one pattern per kind of term.

Source: openforcefield/standards, `smirnoff.md`. Every `idivf` is explicit, because its default differs
between versions; phases are zero and k is signed, as in MMParameters.
"""

from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from pipeline.export.naming import xml_comment
from pipeline.export.openmm_system import COULOMB_14_SCALE, VDW_14_SCALE
from pipeline.export.patterns import Entry, chain_terms, choose_patterns, star_terms
from pipeline.export.smarts import Environment
from pipeline.export.trefoils import sum_trefoils
from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray, MMParameters, Parametrized, Topology
from pipeline.units import DEGREE_PER_RADIAN

IMPROPER_IDIVF = 3
"""The trefoil has three rows; the k in the file is their sum."""

_ENERGY = "kilocalorie_per_mole"
_SCALES = {"scale12": "0.0", "scale13": "0.0", "scale15": "1.0"}
_TORSIONS = {"version": "0.3", "potential": "k*(1+cos(periodicity*theta-phase))"}
_VDW = _SCALES | {
    "version": "0.3",
    "potential": "Lennard-Jones-12-6",
    "combining_rules": "Lorentz-Berthelot",
    "scale14": str(VDW_14_SCALE),
    "cutoff": "9.0 * angstrom",
    "switch_width": "1.0 * angstrom",
    "method": "cutoff",
}
_ELECTROSTATICS = _SCALES | {
    "version": "0.3",
    "scale14": str(COULOMB_14_SCALE),
    "cutoff": "9.0 * angstrom",
    "switch_width": "0.0 * angstrom",
    "method": "PME",
}


def write_offxml(parametrized: Parametrized) -> str:
    """Write the force field whose patterns give each term of this ligand its own parameters, and no other.

    Raises ExportError where SMARTS cannot tell apart two terms whose parameters differ.
    """
    environment = Environment(to_rdkit(parametrized.ligand))
    return to_text(xml_comment(parametrized), build_sections(environment, parametrized))


def write_constrained_offxml(parametrized: Parametrized) -> str:
    """Write the same, with every bond to hydrogen constrained to its length."""
    environment = Environment(to_rdkit(parametrized.ligand))
    sections = [build_constraints(), *build_sections(environment, parametrized)]
    return to_text(xml_comment(parametrized), sections)


def build_sections(environment: Environment, parametrized: Parametrized) -> list[Element]:
    """Choose the patterns of one ligand, section by section; the first proper is a zero for everything."""
    topology, parameters = parametrized.topology, parametrized.parameters
    return [
        _bonds(environment, topology, parameters),
        _angles(environment, topology, parameters),
        _propers(environment, topology, parameters),
        _impropers(environment, topology, parameters),
        _vdw(environment, parameters),
        Element("Electrostatics", _ELECTROSTATICS),
        _library_charges(environment, parameters, parametrized.ligand.total_charge),
    ]


def build_constraints() -> Element:
    """Constrain the bonds to hydrogen, as OpenFF's force fields do."""
    section = Element("Constraints", version="0.3")
    ElementTree.SubElement(section, "Constraint", smirks="[#1:1]-[*:2]", id="c1")
    return section


def to_text(comment: str, sections: Iterable[Element]) -> str:
    """Lay out a file of these sections."""
    root = Element("SMIRNOFF", version="0.3", aromaticity_model="OEAroModel_MDL")
    root.append(ElementTree.Comment(f" {comment} "))
    ElementTree.SubElement(root, "Author").text = "parmflow"
    root.extend(sections)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _bonds(environment: Environment, topology: Topology, parameters: MMParameters) -> Element:
    section = Element("Bonds", version="0.4", potential="(k/2)*(r-length)^2")
    terms = chain_terms(topology.bonds, (parameters.bond_length, parameters.bond_k))
    for bond, (length, k) in _append(section, "Bond", choose_patterns(environment, terms)):
        bond.set("length", f"{length!r} * angstrom")
        bond.set("k", f"{k!r} * {_ENERGY} * angstrom ** -2")
    return section


def _angles(environment: Environment, topology: Topology, parameters: MMParameters) -> Element:
    section = Element("Angles", version="0.3", potential="harmonic")
    terms = chain_terms(topology.angles, (parameters.angle_theta, parameters.angle_k))
    for angle, (theta, k) in _append(section, "Angle", choose_patterns(environment, terms)):
        angle.set("angle", f"{theta * DEGREE_PER_RADIAN!r} * degree")
        angle.set("k", f"{k!r} * {_ENERGY} * radian ** -2")
    return section


def _propers(environment: Environment, topology: Topology, parameters: MMParameters) -> Element:
    """List a zero torsion for everything first: other readers want one over linear centres too."""
    section = Element("ProperTorsions", _TORSIONS, default_idivf="auto")
    anything = Entry(smirks="[*:1]~[*:2]~[*:3]~[*:4]", values=np.zeros(1), rows=())
    terms = chain_terms(topology.propers, (parameters.proper_k,), has_default=True)
    for proper, k_row in _append(section, "Proper", [anything, *choose_patterns(environment, terms)]):
        _set_torsion(proper, k_row, idivf=1)
    return section


def _impropers(environment: Environment, topology: Topology, parameters: MMParameters) -> Element:
    section = Element("ImproperTorsions", _TORSIONS, default_idivf="auto")
    terms = star_terms(topology.impropers[::3], sum_trefoils(topology, parameters))
    for improper, k_row in _append(section, "Improper", choose_patterns(environment, terms)):
        _set_torsion(improper, k_row, idivf=IMPROPER_IDIVF)
    return section


def _vdw(environment: Environment, parameters: MMParameters) -> Element:
    section = Element("vdW", _VDW)
    atoms = np.arange(len(parameters.sigma))[:, None]
    terms = chain_terms(atoms, (parameters.sigma, parameters.epsilon))
    for atom, (sigma, epsilon) in _append(section, "Atom", choose_patterns(environment, terms)):
        atom.set("sigma", f"{sigma!r} * angstrom")
        atom.set("epsilon", f"{epsilon!r} * {_ENERGY}")
    return section


def _library_charges(environment: Environment, parameters: MMParameters, total_charge: int) -> Element:
    """Write one charge per kind of atom; the last bits are shifted alike to sum to the integer exactly.

    One pattern that tags all atoms would match once per symmetry of the molecule: 19 million times for
    icosane, whose hydrogens can be permuted CH2 by CH2; readers list every match.
    """
    section = Element("LibraryCharges", version="0.3")
    n_atoms = len(parameters.charge)
    entries = choose_patterns(environment, chain_terms(np.arange(n_atoms)[:, None], (parameters.charge,)))
    assigned = np.empty(n_atoms)
    for entry in entries:
        assigned[list(entry.rows)] = entry.values[0]
    shift = (total_charge - float(assigned.sum())) / n_atoms
    for library_charge, (charge,) in _append(section, "LibraryCharge", entries):
        library_charge.set("charge1", f"{charge + shift!r} * elementary_charge")
    return section


def _append(section: Element, name: str, entries: Iterable[Entry]) -> list[tuple[Element, list[float]]]:
    """Append one element per pattern, and pair each with its values."""
    return [
        (
            ElementTree.SubElement(section, name, smirks=entry.smirks, id=f"{name[0].lower()}{number}"),
            entry.values.tolist(),
        )
        for number, entry in enumerate(entries, start=1)
    ]


def _set_torsion(element: Element, k_row: FloatArray | list[float], *, idivf: int) -> None:
    """Number the terms that are not zero from 1; a torsion without any gets one zero term."""
    present = [(column + 1, k) for column, k in enumerate(k_row) if k != 0.0] or [(1, 0.0)]
    for number, (periodicity, k) in enumerate(present, start=1):
        element.set(f"periodicity{number}", str(periodicity))
        element.set(f"phase{number}", "0.0 * degree")
        element.set(f"k{number}", f"{k!r} * {_ENERGY}")
        element.set(f"idivf{number}", str(idivf))
