"""Levels of theory by name, and what is refused before anything runs."""

import dataclasses
from collections.abc import Iterable
from functools import cache

import numpy as np

from pipeline.errors import QMError
from pipeline.qm.methods import METHODS, PROGRAMS, is_installed, methods_of, program_entry
from pipeline.schema import IntArray, QMSpec, QMTask

DISPERSIONS = (None, "d3bj")
DRIVERS = ("energy", "gradient", "hessian", "properties", "esp", "optimise")
KEYWORDS = ("maxiter",)
CARTESIAN_BASES = ("6-31g", "3-21g", "6-31+g", "6-31++g")
"""Pople's double-zeta sets, whose d shells have six functions; those of all others have five"""
LIBRARY_BASIS_NAMES = {"dzvp": "dgauss-dzvp"}
"""psi4's name of a basis -> its name in the Basis Set Exchange, whose tables are bundled with its package"""

STAND_INS = {("esp", "6-31g*", 53): "def2-svp"}
"""(driver, basis, element that the basis lacks) -> another's functions, with its effective core potential.
Iodine only, and only for potentials, where nothing but the outside of the atom counts: F. Weigend,
R. Ahlrichs, Phys. Chem. Chem. Phys. 2005, 7, 3297; the core of 28 electrons: K. A. Peterson et al., J. Chem.
Phys. 2003, 119, 11113."""

MAX_FITTED_ATOMIC_NUMBER = 36
"""Krypton. Beyond it the def2 fitting basis is one for effective cores: with DZVP, whose iodine has all its
electrons, it puts the energy of methyl iodide off by 65 hartree and its forces by 0.04 hartree/bohr."""
CLASH = 0.5
"""angstrom; no two nuclei of a molecule are this close (H-H is 0.74)"""

_SPECS = {
    "openff-default": QMSpec(program="auto", method="b3lyp", basis="dzvp", dispersion="d3bj"),
    "fast": QMSpec(program="auto", method="gfn2-xtb", basis=None, dispersion=None),
    "quality": QMSpec(program="auto", method="wb97x", basis="def2-tzvpd", dispersion="d3bj"),
    "composite": QMSpec(program="auto", method="b97-3c", basis="def2-mtzvp", dispersion=None),
    "charges": QMSpec(program="auto", method="hf", basis="6-31g*", dispersion=None, driver="esp"),
}


def spec_by_name(name: str, program: str = "auto") -> QMSpec:
    """Give the level of theory of a name, or of its words: METHOD, METHOD/BASIS, METHOD-D3BJ/BASIS.

    `openff-default` B3LYP-D3BJ/DZVP; `fast` GFN2-xTB; `quality` wB97X-D3BJ/def2-TZVPD; `composite` B97-3c;
    `charges` the electrostatic potential at HF/6-31G*. `auto` takes the first program of the method's in
    `pipeline.qm.methods`; a program that only QCEngine knows has methods of its own. Raises QMError (kind
    input) for an unknown name, method or basis, and for a program without the level.
    """
    spec = _SPECS.get(name) or _spec_of_words(name, program)
    if program == "auto" or methods_of(program):
        programs = METHODS[spec.method].programs
        if program not in ("auto", *programs):
            raise QMError(
                f"{program} does not compute {spec.level}; take program {' or '.join(programs)}",
                kind="input",
            )
        spec = dataclasses.replace(spec, program=programs[0] if program == "auto" else program)
    else:
        spec = dataclasses.replace(spec, program=program)
    complaint = _spec_complaint(spec)
    if complaint:
        raise QMError(complaint, kind="input")
    if spec.basis and name not in _SPECS:
        functions_of_element(spec.basis, 1)
    return spec


def _spec_of_words(words: str, program: str) -> QMSpec:
    """Take a level's words apart; QMError where the method is nobody's."""
    method, _, basis = words.partition("/")
    dispersion: str | None = method.lower().rpartition("-")[2]
    if dispersion in DISPERSIONS and dispersion != method.lower():
        method = method[: -len(f"-{dispersion}")]
    else:
        dispersion = None
    if method.lower() in METHODS:
        method, basis = method.lower(), basis.lower() or METHODS[method.lower()].basis or ""
    elif program == "auto" or methods_of(program):
        raise QMError(
            f"unknown QM level {words!r}; known are {', '.join(_SPECS)}, and in words, with a basis where "
            f"one is needed: {', '.join(METHODS)}",
            kind="input",
        )
    return QMSpec(program=program, method=method, basis=basis or None, dispersion=dispersion)


def levels_of(program: str) -> tuple[str, ...]:
    """List the levels of theory of a program: its named specs first, then each other method in words."""
    methods = methods_of(program)
    named = [f"{name} ({spec.level})" for name, spec in _SPECS.items() if spec.method in methods]
    spoken = {spec.method for spec in _SPECS.values()}
    others = [
        f"{name}/any basis" if METHODS[name].family == "orbital" else name
        for name in methods
        if name not in spoken
    ]
    return (*named, *others)


def is_total_energy(spec: QMSpec) -> bool:
    """Whether a level's energies count all electrons, so that every molecule's is negative.

    MOPAC counts from the elements, a potential from where it likes.
    """
    method = METHODS.get(spec.method)
    return method is not None and method.family != "potential" and spec.program != "mopac"


def has_analytic_hessian(spec: QMSpec) -> bool:
    """Whether a program gives second derivatives at a level; else they come from differences of gradients."""
    return spec.program == "pyscf" and METHODS[spec.method].family == "orbital"


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
        names = {known.lower() for known in basis_set_exchange.get_all_basis_names()}
        known = name.lower() in names | set(LIBRARY_BASIS_NAMES.values())
        what = f"has no functions for element {atomic_number}" if known else "is not a known basis"
        raise QMError(f"{basis} {what}", kind="input") from error
    shells = data["elements"][str(atomic_number)]["electron_shells"]
    return sum(
        (2 * momentum + 1) * (len(shell["coefficients"]) if len(shell["angular_momentum"]) == 1 else 1)
        for shell in shells
        for momentum in shell["angular_momentum"]
    )


def basis_of(spec: QMSpec, atomic_number: int) -> str | None:
    """The basis of an element at a level."""
    return STAND_INS.get((spec.driver, str(spec.basis), atomic_number), spec.basis)


def is_cartesian(basis: str | None) -> bool:
    """Whether the d shells of a basis have six functions, as it was published."""
    return str(basis).rstrip("*").partition("(")[0] in CARTESIAN_BASES


def n_functions(task: QMTask) -> int:
    """Count a task's basis functions; without a basis, one s or four sp functions per atom."""
    bases = [(basis_of(task.spec, number), number) for number in task.atomic_numbers.tolist()]
    return sum(
        (1 if number == 1 else 4) if basis is None else functions_of_element(basis, number)
        for basis, number in bases
    )


def check_question(task: QMTask) -> None:
    """Refuse, before anything runs, what no machine can answer: QMError of kind input or geometry."""
    complaint = _spec_complaint(task.spec) or _molecule_complaint(task) or _constraints_complaint(task)
    if complaint:
        raise QMError(f"{task.ligand_key}: {complaint}", kind="input")
    if closest := _clash(task):
        raise QMError(f"{task.ligand_key}: {closest}", kind="geometry")


def check_task(task: QMTask) -> None:
    """Refuse, before anything runs, what cannot succeed here: QMError of kind input, geometry or engine."""
    check_question(task)
    if not is_installed(task.spec.program):
        entry = program_entry(task.spec.program)
        advice = entry.install if entry else "see the list of programs"
        raise QMError(f"{task.spec.program} is not installed: {advice}", kind="engine")


def check_molecule(name: str, atomic_numbers: IntArray, total_charge: int, specs: Iterable[QMSpec]) -> None:
    """Refuse a molecule that one of these levels cannot compute at any geometry: QMError of kind input."""
    for spec in specs:
        task = QMTask(
            ligand_key=name,
            atomic_numbers=atomic_numbers,
            coords=np.zeros((len(atomic_numbers), 3)),
            total_charge=total_charge,
            spec=spec,
        )
        if complaint := _molecule_complaint(task):
            message = f"{name}: {complaint}; take another level than {spec.level}, or leave it out"
            raise QMError(message, kind="input")


def _spec_complaint(spec: QMSpec) -> str | None:
    entry = program_entry(spec.program)
    if entry is None:
        return f"unknown program {spec.program!r}; known are {', '.join(PROGRAMS)} and those of QCEngine"
    if spec.driver not in DRIVERS:
        return f"unknown driver {spec.driver!r}; known are {', '.join(DRIVERS)}"
    if spec.driver not in entry.drivers:
        return f"{spec.program} has no {spec.driver}; it has {', '.join(entry.drivers)}"
    unknown = [name for name, _ in spec.keywords if name not in KEYWORDS]
    if unknown:
        return f"unknown keyword {unknown[0]!r}; known are {', '.join(KEYWORDS)}"
    return _method_complaint(spec) if methods_of(spec.program) else None


def _method_complaint(spec: QMSpec) -> str | None:
    if spec.method not in methods_of(spec.program):
        known = ", ".join(methods_of(spec.program))
        return f"{spec.program} is not set up for {spec.method!r}; it has {known}"
    method = METHODS[spec.method]
    if method.basis is not None and spec.basis != method.basis:
        return f"{spec.method} is defined with the basis {method.basis} only"
    if (spec.basis is None) != (method.family != "orbital"):
        return f"{spec.method} needs {'no basis' if spec.basis else 'a basis, e.g. dzvp'}"
    if spec.dispersion not in method.dispersions:
        if None not in method.dispersions and spec.dispersion is None:
            return f"{spec.method} is set up with the dispersion {method.dispersions[0]} only"
        return f"dispersion {spec.dispersion!r} cannot be added to {spec.method}"
    return None


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
    method = METHODS.get(task.spec.method)
    if method is not None and method.elements is not None:
        lacking = set(task.atomic_numbers.tolist()) - method.elements
        if lacking:
            return f"{task.spec.method} has no parameters for element {min(lacking)}"
    if method is not None and method.neutral_only and task.total_charge:
        return f"{task.spec.method} is for neutral molecules, not for a charge of {task.total_charge:+d}"
    return _basis_complaint(task)


def _basis_complaint(task: QMTask) -> str | None:
    try:
        n_functions(task)
    except QMError as error:
        return str(error)
    return None


def _constraints_complaint(task: QMTask) -> str | None:
    if task.constraints and task.spec.driver != "optimise":
        return f"constraints belong to an optimisation, not to the driver {task.spec.driver!r}"
    n_atoms = len(task.atomic_numbers)
    for constraint in task.constraints:
        atoms = constraint.atoms
        if len(set(atoms)) != 4 or not all(0 <= atom < n_atoms for atom in atoms):
            return f"{atoms} are not four different atoms of a molecule of {n_atoms}"
    return None


def _clash(task: QMTask) -> str | None:
    distances = np.linalg.norm(task.coords[:, None] - task.coords[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    i, j = np.unravel_index(distances.argmin(), distances.shape)
    if distances[i, j] >= CLASH:
        return None
    return f"atoms {i + 1} and {j + 1} are only {distances[i, j]:.3f} angstrom apart; check the geometry"
