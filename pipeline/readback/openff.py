"""Read an OFFXML back with the OpenFF toolkit and Interchange, where they are installed."""

from importlib.util import find_spec
from pathlib import Path

import openmm
from rdkit import Chem

from pipeline.readback.files import Check
from pipeline.verify import Reference, check_system


def has_openff() -> bool:
    """Whether toolkit and Interchange can be imported; they come from conda-forge only."""
    return find_spec("openff") is not None and find_spec("openff.interchange") is not None


def check_offxml_in_openff(path: Path, reference: Reference) -> list[Check]:
    """Let the toolkit assign the parameters and Interchange build the system; nothing where they are missing.

    Constraints are taken out first: a constrained bond has no energy to compare. An OFFXML has no masses; the
    toolkit's own table gives sulfur 32.0655 for 32.067, so ours are put in.
    """
    if not has_openff():
        return []
    from openff import interchange, toolkit

    force_field = toolkit.ForceField(path.read_text(encoding="utf-8"))
    if "Constraints" in force_field.registered_parameter_handlers:
        force_field.deregister_parameter_handler("Constraints")
    ligand = reference.parametrized.ligand
    molecule = toolkit.Molecule.from_mapped_smiles(ligand.mapped_smiles, allow_undefined_stereo=True)
    built = interchange.Interchange.from_smirnoff(force_field, [molecule]).to_openmm_system()
    for index in reversed(range(built.getNumForces())):
        if isinstance(built.getForce(index), openmm.CMMotionRemover):
            built.removeForce(index)
    table = Chem.GetPeriodicTable()
    for index, number in enumerate(reference.parametrized.topology.atomic_numbers.tolist()):
        built.setParticleMass(index, table.GetAtomicWeight(number))
    reader = f"openff-toolkit {toolkit.__version__}, openff-interchange {interchange.__version__}"
    return [check_system(reference, built, file=path.name, reader=reader)]
