"""What psi4 is told besides method and basis, wherever it runs: the same numbers here and on a server."""

import re

from pipeline.qm.levels import MAX_FITTED_ATOMIC_NUMBER, is_cartesian
from pipeline.schema import QMTask

_RENAMED = (1, 4)
"""from here on the auxiliary basis of all def2 sets has its own name, which pyscf uses too"""
_CONVERGENCE = {
    "e_convergence": 1e-9,
    "d_convergence": 1e-7,
    "maxiter": 60,
    "fail_on_maxiter": True,
}


def psi4_keywords(task: QMTask, version: str) -> dict[str, object]:
    """Convergence, shape of the d shells and integrals of a task, in the words of a version of psi4."""
    return _CONVERGENCE | {"puream": not is_cartesian(task.spec.basis)} | _integrals(task, version)


def _integrals(task: QMTask, version: str) -> dict[str, object]:
    """Fit with psi4's own default basis, written out so that pyscf can use the same; where it ends, exact."""
    if task.atomic_numbers.max() > MAX_FITTED_ATOMIC_NUMBER:
        return {"scf_type": "pk", "df_scf_guess": False}
    name = "def2-universal-jkfit" if version_numbers(version) >= _RENAMED else "def2-qzvpp-jkfit"
    return {"scf_type": "df", "df_basis_scf": name}


def version_numbers(version: str) -> tuple[int, ...]:
    """(1, 3, 2) of `1.3.2`, so that versions can be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
