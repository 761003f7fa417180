"""A task's molecule in the words of QCSchema."""

from qcelemental import periodictable
from qcelemental.models import Molecule

from pipeline.qm.result import to_bohr
from pipeline.schema import QMTask


def to_molecule(task: QMTask) -> Molecule:
    """Give a task's molecule to QCEngine, fixed in its frame."""
    return Molecule(
        symbols=[periodictable.to_E(int(number)) for number in task.atomic_numbers],
        geometry=to_bohr(task),
        molecular_charge=task.total_charge,
        molecular_multiplicity=1,
        fix_com=True,  # without these two the gradient comes back turned
        fix_orientation=True,
        fix_symmetry="c1",
    )
