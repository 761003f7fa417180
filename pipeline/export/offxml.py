"""OFFXML: the ligand's force field as SMIRNOFF 0.3, one pattern per kind of term.

Source: openforcefield/standards, `smirnoff.md`. Every `idivf` is explicit, because its default differs
between versions; phases are zero and k is signed, as in MMParameters.
"""

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from pipeline.export.lookalikes import Colours
from pipeline.export.naming import xml_comment
from pipeline.export.openmm_system import COULOMB_14_SCALE, VDW_14_SCALE
from pipeline.export.patterns import Entry, Terms, chain_terms, choose_patterns, star_terms
from pipeline.export.smarts import Environment
from pipeline.export.trefoils import sum_trefoils
from pipeline.export.xml_text import to_xml
from pipeline.ligand import to_rdkit
from pipeline.schema import FloatArray, Parametrized
from pipeline.topology import list_linear_chains
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
    return to_text(xml_comment(parametrized), _sections_of_one(parametrized))


def write_constrained_offxml(parametrized: Parametrized) -> str:
    """Write the same, with every bond to hydrogen constrained to its length."""
    sections = [build_constraints(), *_sections_of_one(parametrized)]
    return to_text(xml_comment(parametrized), sections)


def _sections_of_one(parametrized: Parametrized) -> list[Element]:
    colours = Colours([Environment(to_rdkit(parametrized.ligand))])
    return [*build_sections(colours, [parametrized]), build_charges(colours, parametrized)]


def build_sections(colours: Colours, ligands: Sequence[Parametrized]) -> list[Element]:
    """Choose the patterns of some ligands, section by section; the first proper is a zero for everything.

    `colours` are of their environments. The charges are left to `build_charges`.
    """
    return [
        _bonds(colours, ligands),
        _angles(colours, ligands),
        _propers(colours, ligands),
        _impropers(colours, ligands),
        _vdw(colours, ligands),
        Element("Electrostatics", _ELECTROSTATICS),
    ]


def build_charges(colours: Colours, parametrized: Parametrized) -> Element:
    """Write one charge per kind of atom; the last bits are shifted alike to sum to the integer exactly.

    One pattern that tags all atoms would match once per symmetry of the molecule: 19 million times for
    icosane, whose hydrogens can be permuted CH2 by CH2; readers list every match.
    """
    section = Element("LibraryCharges", version="0.3")
    charge = parametrized.parameters.charge
    entries = choose_patterns(colours, [chain_terms(np.arange(len(charge))[:, None], (charge,))])
    assigned = np.empty(len(charge))
    for entry in entries:
        assigned[list(entry.rows)] = entry.values[0]
    shift = (parametrized.ligand.total_charge - float(assigned.sum())) / len(charge)
    for library_charge, (charge_1,) in _append(section, "LibraryCharge", entries):
        library_charge.set("charge1", f"{charge_1 + shift!r} * elementary_charge")
    return section


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
    return f'<?xml version="1.0" encoding="utf-8"?>\n{to_xml(root)}\n'


def _bonds(colours: Colours, ligands: Sequence[Parametrized]) -> Element:
    section = Element("Bonds", version="0.4", potential="(k/2)*(r-length)^2")
    terms = [
        chain_terms(one.topology.bonds, (one.parameters.bond_length, one.parameters.bond_k))
        for one in ligands
    ]
    for bond, (length, k) in _append(section, "Bond", choose_patterns(colours, terms)):
        bond.set("length", f"{length!r} * angstrom")
        bond.set("k", f"{k!r} * {_ENERGY} * angstrom ** -2")
    return section


def _angles(colours: Colours, ligands: Sequence[Parametrized]) -> Element:
    section = Element("Angles", version="0.3", potential="harmonic")
    terms = [
        chain_terms(one.topology.angles, (one.parameters.angle_theta, one.parameters.angle_k))
        for one in ligands
    ]
    for angle, (theta, k) in _append(section, "Angle", choose_patterns(colours, terms)):
        angle.set("angle", f"{theta * DEGREE_PER_RADIAN!r} * degree")
        angle.set("k", f"{k!r} * {_ENERGY} * radian ** -2")
    return section


def _propers(colours: Colours, ligands: Sequence[Parametrized]) -> Element:
    """List a zero torsion for everything first: other readers want one over linear centres too."""
    section = Element("ProperTorsions", _TORSIONS, default_idivf="auto")
    anything = Entry(smirks="[*:1]~[*:2]~[*:3]~[*:4]", values=np.zeros(1), rows=())
    terms = [_proper_terms(one) for one in ligands]
    for proper, k_row in _append(section, "Proper", [anything, *choose_patterns(colours, terms)]):
        _set_torsion(proper, k_row, idivf=1)
    return section


def _proper_terms(parametrized: Parametrized) -> Terms:
    """The propers, and with zeros the chains over linear centres, which no pattern may give a torsion."""
    topology, k_rows = parametrized.topology, parametrized.parameters.proper_k
    linear = np.array(list_linear_chains(topology), dtype=np.int64).reshape(-1, 4)
    atoms = np.vstack([topology.propers, linear])
    values = np.vstack([k_rows, np.zeros((len(linear), k_rows.shape[1]))])
    return chain_terms(atoms, (values,), has_default=True)


def _impropers(colours: Colours, ligands: Sequence[Parametrized]) -> Element:
    section = Element("ImproperTorsions", _TORSIONS, default_idivf="auto")
    terms = [
        star_terms(one.topology.impropers[::3], sum_trefoils(one.topology, one.parameters)) for one in ligands
    ]
    for improper, k_row in _append(section, "Improper", choose_patterns(colours, terms)):
        _set_torsion(improper, k_row, idivf=IMPROPER_IDIVF)
    return section


def _vdw(colours: Colours, ligands: Sequence[Parametrized]) -> Element:
    section = Element("vdW", _VDW)
    terms = [
        chain_terms(np.arange(one.topology.n_atoms)[:, None], (one.parameters.sigma, one.parameters.epsilon))
        for one in ligands
    ]
    for atom, (sigma, epsilon) in _append(section, "Atom", choose_patterns(colours, terms)):
        atom.set("sigma", f"{sigma!r} * angstrom")
        atom.set("epsilon", f"{epsilon!r} * {_ENERGY}")
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
