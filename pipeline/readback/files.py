"""Read each delivered file with a program that did not write it, and compare with the reference."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

import numpy as np
import openmm
import parmed
from openmm import app
from rdkit import Chem

from pipeline.errors import ParametersError, VerificationError
from pipeline.export.openmm_system import build_system
from pipeline.export.parameters_json import read_parameters_json
from pipeline.ligand import to_rdkit
from pipeline.schema import CLASS1_FIELDS, CrossTerms, EnergyReport, MMParameters, Parametrized
from pipeline.smirnoff import label, read_smirnoff
from pipeline.smirnoff.matching import find_matches, molecule_for_matching
from pipeline.units import ANGSTROM_PER_NM
from pipeline.verify import EnergyCheck, Reference, check_system

CHARGE_SUM_TOLERANCE = 1e-9
"""elementary charges: what the printed digits may sum to beyond the integer"""

SDF_DECIMALS, INPCRD_DECIMALS = 4, 7
PARAMETER_TOLERANCE = 1e-5
"""relative above 1, absolute below: a parameter given to the wrong term is further off than this"""


@dataclass(frozen=True, kw_only=True)
class ContentCheck:
    """One file without energies, read by one program."""

    file: str
    reader: str
    compared: str
    largest_difference: float
    """of what was compared, in its unit"""


@dataclass(frozen=True, kw_only=True)
class ResidualCheck:
    """One file whose format has another improper: all else is proved, the improper's residual is measured."""

    file: str
    reader: str
    reports: tuple[EnergyReport, ...]
    """one per geometry, kcal/mol; with the file's own impropers"""
    largest_difference: EnergyReport
    """per term, over the geometries, kcal/mol; improper: the largest residual"""
    largest_force_difference: float
    """over geometries, terms but the improper, and components, kcal/mol/angstrom"""
    improper_residual: tuple[float, ...]
    """per geometry, kcal/mol: the file's improper energy less the force field's, each above its planar one"""
    improper_force_residual: tuple[float, ...]
    """per geometry, the largest component, kcal/mol/angstrom"""
    note: str


FLEXIBLE = MappingProxyType(
    {"nonbondedMethod": app.NoCutoff, "constraints": None, "rigidWater": False, "removeCMMotion": False}
)
"""how the readers shall build a system: every term, nothing constrained, no cutoff"""

Check = EnergyCheck | ContentCheck | ResidualCheck
Checker = Callable[[Path, Reference], list[Check]]


_UNREADABLE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ParametersError,
    openmm.OpenMMException,
    parmed.exceptions.ParmedError,
)
"""what the readers raise about a file that is not of its format"""


def read_back(check: Checker, path: Path, reference: Reference) -> list[Check]:
    """Let another program read a file and compare; a file it cannot read is a VerificationError too."""
    try:
        return check(path, reference)
    except _UNREADABLE as error:
        raise VerificationError(
            f"{path.name}: cannot be read back: {type(error).__name__}: {error}"
        ) from error


def check_offxml(path: Path, reference: Reference) -> list[Check]:
    """Label the ligand with the file: every term gets its own parameters, and the energies agree."""
    parametrized = reference.parametrized
    labelled = label(read_smirnoff(path), parametrized.ligand, parametrized.topology)
    compare_parameters(path.name, labelled, parametrized.parameters)
    _check_charge_sum(path.name, float(labelled.charge.sum()), parametrized)
    system = build_system(parametrized.topology, labelled)
    return [check_system(reference, system, file=path.name, reader="parmflow SMIRNOFF reader")]


def check_constrained_offxml(path: Path, reference: Reference) -> list[Check]:
    """Do the same, and see that the constraints are those of the bonds to hydrogen, at their lengths."""
    topology = reference.parametrized.topology
    mol = molecule_for_matching(reference.parametrized.ligand)
    constrained = {
        tuple(sorted(match))
        for constraint in read_smirnoff(path).constraints
        if constraint.distance is None
        for match in find_matches(constraint.pattern, mol)
    }
    wanted = {tuple(row) for row in topology.bonds.tolist() if 1 in topology.atomic_numbers[row]}
    if constrained != wanted:
        raise VerificationError(f"{path.name}: {len(constrained)} constraints, not {len(wanted)} to hydrogen")
    return check_offxml(path, reference)


def check_prmtop(path: Path, reference: Reference) -> list[Check]:
    """Build the system with OpenMM's Amber reader and with ParmEd's.

    Both divide the printed charges by 18.2223 and use OpenMM's Coulomb constant, so the charges of the file
    are compared exactly; sander and pmemd multiply with 18.2223^2 instead, see `check.json`.
    """
    amber = parmed.amber.AmberParm(str(path))
    _check_charge_sum(path.name, sum(amber.parm_data["CHARGE"]), reference.parametrized)
    by_openmm = app.AmberPrmtopFile(str(path)).createSystem(**FLEXIBLE)
    by_parmed = build_parmed_system(amber)
    return [
        check_system(reference, by_openmm, file=path.name, reader=f"OpenMM {openmm.__version__}"),
        check_system(reference, by_parmed, file=path.name, reader=f"ParmEd {parmed.__version__}"),
    ]


def build_parmed_system(structure: parmed.Structure) -> openmm.System:
    """Let ParmEd build the flexible system of what it has read.

    ParmEd excludes a bonded pair on its way on to a third atom: in a molecule of two it forgets to, so this
    is done here, for the pair that it has read as bonded.
    """
    system = structure.createSystem(**FLEXIBLE)
    if len(structure.atoms) == 2:
        (nonbonded,) = (f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
        for bond in structure.bonds:
            nonbonded.addException(bond.atom1.idx, bond.atom2.idx, 0.0, 1.0, 0.0, True)
    return system


def check_openmm_system(path: Path, reference: Reference) -> list[Check]:
    """Deserialize the System XML."""
    system = openmm.XmlSerializer.deserialize(path.read_text(encoding="utf-8"))
    return [check_system(reference, system, file=path.name, reader=f"OpenMM {openmm.__version__}")]


def check_inpcrd(path: Path, reference: Reference) -> list[Check]:
    """Compare the coordinates that OpenMM's Amber reader finds."""
    coords = app.AmberInpcrdFile(str(path)).getPositions(asNumpy=True)._value * ANGSTROM_PER_NM
    difference = _check_coords(path.name, coords, reference.parametrized, INPCRD_DECIMALS)
    return [
        ContentCheck(
            file=path.name,
            reader=f"OpenMM {openmm.__version__}",
            compared="coordinates, angstrom",
            largest_difference=difference,
        )
    ]


def check_sdf(path: Path, reference: Reference) -> list[Check]:
    """Read the record with RDKit: same molecule in the same atom order, same coordinates and charges."""
    parametrized = reference.parametrized
    mols = list(Chem.SDMolSupplier(str(path), removeHs=False))
    if len(mols) != 1 or mols[0] is None:
        raise VerificationError(f"{path.name}: RDKit does not read one record")
    mol, expected = mols[0], to_rdkit(parametrized.ligand)
    _forget_open_stereo(mol, expected)
    for got, want in ((_graph(mol), _graph(expected)), (_smiles(mol), _smiles(expected))):
        if got != want:
            raise VerificationError(f"{path.name}: another molecule or atom order: {got}, expected {want}")
    difference = _check_coords(path.name, mol.GetConformer().GetPositions(), parametrized, SDF_DECIMALS)
    if not all(atom.HasProp("PartialCharge") for atom in mol.GetAtoms()):
        raise VerificationError(f"{path.name}: not one partial charge per atom")
    charges = np.array([atom.GetDoubleProp("PartialCharge") for atom in mol.GetAtoms()])
    if not np.allclose(charges, parametrized.parameters.charge, rtol=0, atol=CHARGE_SUM_TOLERANCE):
        raise VerificationError(f"{path.name}: the partial charges differ from the parameters")
    _check_charge_sum(path.name, float(charges.sum()), parametrized)
    return [
        ContentCheck(
            file=path.name,
            reader="RDKit",
            compared="atoms, bonds, stereo, charges; coordinates, angstrom",
            largest_difference=difference,
        )
    ]


def check_parameters_json(path: Path, reference: Reference) -> list[Check]:
    """Read the numbers back: the same to the last bit."""
    written = reference.parametrized.parameters
    parameters = read_parameters_json(path.read_text(encoding="utf-8"))
    for name in CLASS1_FIELDS:
        if not np.array_equal(getattr(parameters, name), getattr(written, name)):
            raise VerificationError(f"{path.name}: {name} differs from the parameters")
    _compare_cross(path.name, parameters.cross, written.cross)
    return [
        ContentCheck(file=path.name, reader="Python json", compared="every parameter", largest_difference=0.0)
    ]


def _compare_cross(file: str, have: CrossTerms | None, want: CrossTerms | None) -> None:
    if have is None or want is None:
        if have is not want:
            raise VerificationError(f"{file}: the cross terms are missing, or there should be none")
        return
    for field in fields(CrossTerms):
        if not np.array_equal(getattr(have, field.name), getattr(want, field.name)):
            raise VerificationError(f"{file}: {field.name} differs from the parameters")


def compare_parameters(file: str, have: MMParameters, want: MMParameters) -> None:
    """Raise VerificationError for the first parameter that is not the one written."""
    for name in CLASS1_FIELDS:
        got, expected = getattr(have, name), getattr(want, name)
        allowed = PARAMETER_TOLERANCE * np.maximum(1.0, np.abs(expected))
        wrong = np.argwhere(~(np.abs(got - expected) <= allowed))
        if len(wrong):
            row = int(wrong[0, 0])
            raise VerificationError(
                f"{file}: {name} of row {row} is {got[row]}, written {expected[row]}: a pattern gives "
                "this term the parameters of another"
            )


def _check_charge_sum(file: str, total: float, parametrized: Parametrized) -> None:
    expected = parametrized.ligand.total_charge
    if not abs(total - expected) <= CHARGE_SUM_TOLERANCE:
        raise VerificationError(f"{file}: the printed charges sum to {total:.10f}, expected {expected:+d}")


def _check_coords(file: str, coords: np.ndarray, parametrized: Parametrized, decimals: int) -> float:
    if parametrized.coords is None or coords.shape != parametrized.coords.shape:
        raise VerificationError(f"{file}: coordinates of {len(coords)} atoms do not belong to this ligand")
    difference = float(np.abs(coords - parametrized.coords).max())
    if not difference <= 0.6 * 10.0**-decimals:
        raise VerificationError(f"{file}: a coordinate differs by {difference:.1e} angstrom")
    return difference


def _graph(mol: Chem.Mol) -> tuple[list[int], set[tuple[int, int]]]:
    """Elements in order, and bonds."""
    bonds = {
        (min(ends), max(ends))
        for ends in ((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds())
    }
    return [atom.GetAtomicNum() for atom in mol.GetAtoms()], bonds


def _forget_open_stereo(mol: Chem.Mol, expected: Chem.Mol) -> None:
    """Drop from a 3-D record the stereo that the ligand leaves open; what it states must be there."""
    for atom, stated in zip(mol.GetAtoms(), expected.GetAtoms(), strict=False):
        if stated.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED:
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond in mol.GetBonds():
        stated = expected.GetBondBetweenAtoms(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
        if stated is None or stated.GetStereo() <= Chem.BondStereo.STEREOANY:
            bond.SetStereo(Chem.BondStereo.STEREONONE)


def _smiles(mol: Chem.Mol) -> str:
    return str(Chem.MolToSmiles(mol))
