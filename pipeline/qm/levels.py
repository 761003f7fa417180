"""Levels of theory by name, and what is refused before anything runs."""

from functools import cache
from importlib.util import find_spec
from shutil import which

import numpy as np

from pipeline.errors import QMError
from pipeline.schema import QMSpec, QMTask

DFT_METHODS = ("b3lyp", "hf")
"""B3LYP with VWN3 (libxc 402), as psi4, pyscf and OpenFF's data sets understand the name."""
TIGHT_BINDING_METHODS = ("gfn2-xtb",)
METHODS = {"psi4": DFT_METHODS, "pyscf": DFT_METHODS, "tblite": TIGHT_BINDING_METHODS}
DISPERSIONS = (None, "d3bj")
DRIVERS = ("energy", "gradient")
KEYWORDS = ("maxiter",)
LIBRARY_BASIS_NAMES = {"dzvp": "dgauss-dzvp"}
"""psi4's name of a basis -> its name in the Basis Set Exchange, whose tables are bundled with its package"""

MAX_FITTED_ATOMIC_NUMBER = 36
"""Krypton. Beyond it the def2 fitting basis is one for effective cores: with DZVP, whose iodine has all its
electrons, it puts the energy of methyl iodide off by 65 hartree and its forces by 0.04 hartree/bohr."""
GFN2_MAX_ATOMIC_NUMBER = 86
CLASH = 0.5
"""angstrom; no two nuclei of a molecule are this close (H-H is 0.74)"""

_SPECS = {
    "openff-default": QMSpec(program="pyscf", method="b3lyp", basis="dzvp", dispersion="d3bj"),
    "fast": QMSpec(program="tblite", method="gfn2-xtb", basis=None, dispersion=None),
}
_INSTALL = {
    "psi4": "install the system package psi4, or psi4 from conda-forge",
    "pyscf": "pip install pyscf",
    "tblite": "pip install tblite",
}


def spec_by_name(name: str, program: str = "auto") -> QMSpec:
    """Give the level of theory of a name: `openff-default` (B3LYP-D3BJ/DZVP) or `fast` (GFN2-xTB).

    `auto` takes pyscf for DFT and tblite for GFN2-xTB. Raises QMError (kind input) for an unknown name or a
    program that does not have the level.
    """
    if name not in _SPECS:
        raise QMError(f"unknown QM spec {name!r}; known are {', '.join(_SPECS)}", kind="input")
    spec = _SPECS[name]
    if program in ("auto", spec.program):
        return spec
    if spec.method not in METHODS.get(program, ()):
        raise QMError(f"{program} does not compute {spec.level}; use --program auto", kind="input")
    return QMSpec(program=program, method=spec.method, basis=spec.basis, dispersion=spec.dispersion)


def is_installed(program: str) -> bool:
    """Tell whether a program can be started, without starting it."""
    return which("psi4") is not None if program == "psi4" else find_spec(program) is not None


def n_electrons(task: QMTask) -> int:
    """Count the electrons of a task's molecule."""
    return int(task.atomic_numbers.sum()) - task.total_charge


@cache
def functions_of_element(basis: str, atomic_number: int) -> int:
    """Count the spherical basis functions of one element; QMError when the basis lacks it."""
    import basis_set_exchange  # 0.1 s that only DFT pays

    name = LIBRARY_BASIS_NAMES.get(basis, basis)
    try:
        data = basis_set_exchange.get_basis(name, elements=[atomic_number])
    except KeyError as error:
        known = name in basis_set_exchange.get_all_basis_names() or name in LIBRARY_BASIS_NAMES.values()
        what = f"has no functions for element {atomic_number}" if known else "is not a known basis"
        raise QMError(f"{basis} {what}", kind="input") from error
    shells = data["elements"][str(atomic_number)]["electron_shells"]
    return sum(
        (2 * momentum + 1) * (len(shell["coefficients"]) if len(shell["angular_momentum"]) == 1 else 1)
        for shell in shells
        for momentum in shell["angular_momentum"]
    )


def n_functions(task: QMTask) -> int:
    """Count a task's basis functions; for GFN2-xTB, one s or four sp functions per atom."""
    numbers = task.atomic_numbers.tolist()
    if task.spec.basis is None:
        return sum(1 if number == 1 else 4 for number in numbers)
    return sum(functions_of_element(task.spec.basis, number) for number in numbers)


def check_task(task: QMTask) -> None:
    """Refuse, before anything runs, what cannot succeed: QMError of kind input, geometry or engine."""
    complaint = _spec_complaint(task.spec) or _molecule_complaint(task)
    if complaint:
        raise QMError(f"{task.ligand_key}: {complaint}", kind="input")
    if closest := _clash(task):
        raise QMError(f"{task.ligand_key}: {closest}", kind="geometry")
    if not is_installed(task.spec.program):
        advice = _INSTALL[task.spec.program]
        raise QMError(f"{task.spec.program} is not installed: {advice}", kind="engine")
    if task.spec.basis is not None:
        n_functions(task)


def _spec_complaint(spec: QMSpec) -> str | None:
    if spec.program not in METHODS:
        return f"unknown program {spec.program!r}; known are {', '.join(METHODS)}"
    if spec.method not in METHODS[spec.program]:
        return f"{spec.program} is not set up for {spec.method!r}; it has {', '.join(METHODS[spec.program])}"
    if (spec.basis is None) != (spec.method in TIGHT_BINDING_METHODS):
        return f"{spec.method} needs {'no basis' if spec.basis else 'a basis, e.g. dzvp'}"
    if spec.dispersion not in DISPERSIONS or (spec.dispersion and spec.method in TIGHT_BINDING_METHODS):
        return f"dispersion {spec.dispersion!r} cannot be added to {spec.method}"
    if spec.driver not in DRIVERS:
        return f"unknown driver {spec.driver!r}; known are {', '.join(DRIVERS)}"
    unknown = [name for name, _ in spec.keywords if name not in KEYWORDS]
    return f"unknown keyword {unknown[0]!r}; known are {', '.join(KEYWORDS)}" if unknown else None


def _molecule_complaint(task: QMTask) -> str | None:
    electrons = n_electrons(task)
    if len(task.atomic_numbers) == 0:
        return "the molecule has no atoms"
    if electrons < 1:
        return f"a total charge of {task.total_charge} leaves no electron"
    if electrons % 2:
        return (
            f"{electrons} electrons cannot all be paired: parmflow computes closed shells; "
            "check the total charge and for a missing hydrogen"
        )
    if not np.isfinite(task.coords).all():
        return "the coordinates are not finite"
    if task.spec.basis is None and task.atomic_numbers.max() > GFN2_MAX_ATOMIC_NUMBER:
        return f"{task.spec.method} has no parameters for element {task.atomic_numbers.max()}"
    return None


def _clash(task: QMTask) -> str | None:
    distances = np.linalg.norm(task.coords[:, None] - task.coords[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    i, j = np.unravel_index(distances.argmin(), distances.shape)
    if distances[i, j] >= CLASH:
        return None
    return f"atoms {i + 1} and {j + 1} are only {distances[i, j]:.3f} angstrom apart; check the geometry"
