"""Read the OpenMM ForceField XML back with OpenMM: the template finds the bare molecule."""

from pathlib import Path
from xml.parsers import expat

import openmm
from openmm import app

from pipeline.errors import VerificationError
from pipeline.readback.files import FLEXIBLE, Check
from pipeline.schema import Topology
from pipeline.verify import Reference, check_system


def check_openmm_forcefield(path: Path, reference: Reference) -> list[Check]:
    """Let OpenMM match the template to the bare molecule and build its system."""
    _check_well_formed(path)
    force_field = app.ForceField(str(path))
    system = force_field.createSystem(build_app_topology(reference.parametrized.topology), **FLEXIBLE)
    return [check_system(reference, system, file=path.name, reader=f"OpenMM {openmm.__version__}")]


def _check_well_formed(path: Path) -> None:
    """OpenMM reports broken XML by a bare Exception; say it our way first."""
    try:
        expat.ParserCreate().Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise VerificationError(f"{path.name}: cannot be read back: {error}") from error


def build_app_topology(topology: Topology) -> app.Topology:
    """Make OpenMM's topology of one residue: elements, names by position, bonds without orders."""
    made = app.Topology()
    residue = made.addResidue("LIG", made.addChain())
    atoms = [
        made.addAtom(f"A{index}", app.Element.getByAtomicNumber(number), residue)
        for index, number in enumerate(topology.atomic_numbers.tolist())
    ]
    for i, j in topology.bonds.tolist():
        made.addBond(atoms[i], atoms[j])
    return made
