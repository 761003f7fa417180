"""OpenMM ForceField XML: a residue template of the ligand, to be loaded beside protein force fields.

Format: OpenMM user guide, "Creating Force Fields". Every atom has its own type, named with the ligand's hash,
so that no term is shared, no wildcard is needed and several ligands fit into one system. 1-4 scales are those
of the Amber force fields that OpenMM ships, which print 0.8333333333333334 for our 0.8333333333.
"""

from collections.abc import Iterable
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from rdkit import Chem

from pipeline.export.atom_types import hash_prefix
from pipeline.export.naming import build_atom_names, xml_comment
from pipeline.export.openmm_system import COULOMB_14_SCALE, VDW_14_SCALE
from pipeline.export.trefoils import sum_trefoils
from pipeline.export.xml_text import to_xml
from pipeline.schema import Parametrized
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL

_KJ_PER_NM2 = KJ_PER_KCAL * ANGSTROM_PER_NM**2

_HOW_TO = (
    "OpenMM finds the template by elements and bonds. Where two templates fit, e.g. of stereoisomers, name "
    "this one: createSystem(..., residueTemplates={residue: '%s'})"
)


def write_openmm_forcefield(parametrized: Parametrized) -> str:
    """Write types, template and every term in nm and kJ/mol, all digits kept.

    Impropers say `ordering="smirnoff"`: OpenMM then adds the three rows of the trefoil, centre first.
    """
    prefix = hash_prefix(parametrized)
    types = [f"{prefix}-{name}" for name in build_atom_names(parametrized.topology)]
    root = Element("ForceField")
    comment = f"{xml_comment(parametrized)}. {_HOW_TO % prefix}"
    root.append(ElementTree.Comment(f" {comment} "))
    root.append(_atom_types(parametrized, types))
    root.append(_residues(parametrized, prefix, types))
    for write in (_bonds, _angles, _propers, _impropers, _nonbonded):
        root.append(write(parametrized, types))
    return to_xml(root) + "\n"


def _atom_types(parametrized: Parametrized, types: list[str]) -> Element:
    section = Element("AtomTypes")
    table = Chem.GetPeriodicTable()
    for name, number in zip(types, parametrized.topology.atomic_numbers.tolist(), strict=True):
        SubElement(
            section,
            "Type",
            {
                "name": name,
                "class": name,
                "element": table.GetElementSymbol(number),
                "mass": repr(table.GetAtomicWeight(number)),
            },
        )
    return section


def _residues(parametrized: Parametrized, prefix: str, types: list[str]) -> Element:
    """One template, named by the hash, without bonds to other residues."""
    section = Element("Residues")
    residue = SubElement(section, "Residue", name=prefix)
    topology, charges = parametrized.topology, parametrized.parameters.charge.tolist()
    names = build_atom_names(topology)
    for name, kind, charge in zip(names, types, charges, strict=True):
        SubElement(residue, "Atom", name=name, type=kind, charge=repr(charge))
    for i, j in topology.bonds.tolist():
        SubElement(residue, "Bond", atomName1=names[i], atomName2=names[j])
    return section


def _bonds(parametrized: Parametrized, types: list[str]) -> Element:
    section, parameters = Element("HarmonicBondForce"), parametrized.parameters
    for atoms, length, k in zip(
        parametrized.topology.bonds.tolist(),
        (parameters.bond_length / ANGSTROM_PER_NM).tolist(),
        (parameters.bond_k * _KJ_PER_NM2).tolist(),
        strict=True,
    ):
        SubElement(section, "Bond", _typed(types, atoms) | {"length": repr(length), "k": repr(k)})
    return section


def _angles(parametrized: Parametrized, types: list[str]) -> Element:
    section, parameters = Element("HarmonicAngleForce"), parametrized.parameters
    for atoms, theta, k in zip(
        parametrized.topology.angles.tolist(),
        parameters.angle_theta.tolist(),
        (parameters.angle_k * KJ_PER_KCAL).tolist(),
        strict=True,
    ):
        SubElement(section, "Angle", _typed(types, atoms) | {"angle": repr(theta), "k": repr(k)})
    return section


def _propers(parametrized: Parametrized, types: list[str]) -> Element:
    section = Element("PeriodicTorsionForce")
    rows = zip(parametrized.topology.propers.tolist(), parametrized.parameters.proper_k.tolist(), strict=True)
    for atoms, k_row in rows:
        _append_torsion(section, "Proper", _typed(types, atoms), k_row)
    return section


def _impropers(parametrized: Parametrized, types: list[str]) -> Element:
    """One line per centre with the k of a row, which OpenMM gives to each of the three."""
    section = Element("PeriodicTorsionForce", ordering="smirnoff")
    k_rows = sum_trefoils(parametrized.topology, parametrized.parameters) / 3
    dihedrals = parametrized.topology.improper_dihedrals[::3].tolist()
    for atoms, k_row in zip(dihedrals, k_rows.tolist(), strict=True):
        _append_torsion(section, "Improper", _typed(types, atoms), k_row)
    return section


def _nonbonded(parametrized: Parametrized, types: list[str]) -> Element:
    """Charges stand in the template, as in OpenMM's own Amber files."""
    scales = {"coulomb14scale": str(COULOMB_14_SCALE), "lj14scale": str(VDW_14_SCALE)}
    section, parameters = Element("NonbondedForce", scales), parametrized.parameters
    SubElement(section, "UseAttributeFromResidue", name="charge")
    for kind, sigma, epsilon in zip(
        types,
        (parameters.sigma / ANGSTROM_PER_NM).tolist(),
        (parameters.epsilon * KJ_PER_KCAL).tolist(),
        strict=True,
    ):
        SubElement(section, "Atom", type=kind, sigma=repr(sigma), epsilon=repr(epsilon))
    return section


def _typed(types: list[str], atoms: Iterable[int]) -> dict[str, str]:
    return {f"type{number}": types[atom] for number, atom in enumerate(atoms, start=1)}


def _append_torsion(section: Element, tag: str, typed: dict[str, str], k_row: list[float]) -> None:
    """Append a torsion's terms that are not zero; none: no line, since OpenMM does not ask for one."""
    present = [(periodicity, k) for periodicity, k in enumerate(k_row, start=1) if k != 0.0]
    if present:
        torsion = SubElement(section, tag, typed)
        for number, (periodicity, k) in enumerate(present, start=1):
            torsion.set(f"periodicity{number}", str(periodicity))
            torsion.set(f"phase{number}", "0.0")
            torsion.set(f"k{number}", repr(k * KJ_PER_KCAL))
