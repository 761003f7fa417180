"""Which program computes which method, with what, and what each lacks: one table."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from shutil import which
from typing import Literal

Family = Literal["orbital", "semiempirical", "potential"]
"""orbital: Hartree-Fock and DFT in a basis; semiempirical: electrons without a basis to choose; potential: a
function of the nuclei, learned or classical"""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method by the name that all programs here share."""

    family: Family
    programs: tuple[str, ...]
    """the first is what `auto` takes"""
    basis: str | None = None
    """the only one that it is defined with; None: any, where the family has one"""
    dispersions: tuple[str | None, ...] = (None,)
    """what may be added to it; without None, what must"""
    elements: frozenset[int] | None = None
    """atomic numbers that it has parameters for; None: all that the basis has"""
    neutral_only: bool = False
    """whether it knows no total charge"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program, how to see that it is there, and how to get it."""

    module: str
    """of the engine, imported in child processes only"""
    install: str
    command: str | None = None
    """executable that shows it is installed"""
    package: str | None = None
    """Python package that shows it is installed"""
    distribution: str | None = None
    """whose version is the program's; None: of the same name"""
    drivers: tuple[str, ...] = ("energy", "gradient", "hessian", "optimise")


_DFT = ("pyscf", "psi4")
_XTB = frozenset(range(1, 87))
# MOPAC's AM1 without the metals whose sparkles or d functions came later
_AM1 = frozenset({1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 30, 32, 33, 34, 35, 53, 80})
_ANI = frozenset({1, 6, 7, 8})
_AIMNET = frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53})
_MACE = frozenset({1, 6, 7, 8, 9, 15, 16, 17, 35, 53})
METHODS: dict[str, Method] = {
    "hf": Method(family="orbital", programs=_DFT, dispersions=(None, "d3bj")),
    # with VWN3 (libxc 402), as psi4, pyscf and OpenFF's data sets understand the name
    "b3lyp": Method(family="orbital", programs=_DFT, dispersions=(None, "d3bj")),
    # Najibi, Goerigk, J. Chem. Theory Comput. 2018, 14, 5725: wB97X-V with D3(BJ) in the place of VV10. psi4
    # 1.3.2 has it, but only together with a dftd3 executable.
    "wb97x": Method(family="orbital", programs=("pyscf",), dispersions=("d3bj",)),
    # Brandenburg, Bannwarth, Hansen, Grimme, J. Chem. Phys. 2018, 148, 064104; its corrections are part of it
    "b97-3c": Method(family="orbital", programs=("pyscf",), basis="def2-mtzvp"),
    "gfn1-xtb": Method(family="semiempirical", programs=("tblite",), elements=_XTB),
    "gfn2-xtb": Method(family="semiempirical", programs=("tblite",), elements=_XTB),
    "am1": Method(family="semiempirical", programs=("mopac",), elements=_AM1),
    "ani1ccx": Method(family="potential", programs=("torchani",), elements=_ANI, neutral_only=True),
    "ani1x": Method(family="potential", programs=("torchani",), elements=_ANI, neutral_only=True),
    "ani2x": Method(
        family="potential", programs=("torchani",), elements=_ANI | {9, 16, 17}, neutral_only=True
    ),
    "aimnet2": Method(family="potential", programs=("aimnet2",), elements=_AIMNET),
    "aimnet2_wb97m": Method(family="potential", programs=("aimnet2",), elements=_AIMNET),
    "small": Method(family="potential", programs=("mace",), elements=_MACE, neutral_only=True),
    "medium": Method(family="potential", programs=("mace",), elements=_MACE, neutral_only=True),
    "large": Method(family="potential", programs=("mace",), elements=_MACE, neutral_only=True),
}

_NOT_ENGINES = frozenset({"dftd3", "dftd4", "gcp", "mctc-gcp", "mp2d", "openmm", "rdkit", "s-dftd3"})
"""QCEngine's harnesses of corrections to other programs, and of force fields that want bonds"""
_WAVEFUNCTION = ("energy", "gradient", "hessian", "properties", "esp", "optimise")
_POPULATIONS = ("energy", "gradient", "hessian", "properties", "optimise")
_QCENGINE = "pipeline.qm.qcengine_engine"
PROGRAMS: dict[str, Program] = {
    "psi4": Program(
        module="pipeline.qm.psi4_engine",
        install="install the system package psi4, or psi4 from conda-forge",
        command="psi4",
        drivers=_WAVEFUNCTION,
    ),
    "pyscf": Program(
        module="pipeline.qm.pyscf_engine",
        install="pip install pyscf",
        package="pyscf",
        drivers=_WAVEFUNCTION,
    ),
    "tblite": Program(
        module="pipeline.qm.tblite_engine",
        install="pip install tblite",
        package="tblite",
        drivers=_POPULATIONS,
    ),
    "mopac": Program(
        module="pipeline.qm.mopac_engine",
        install="install the system package mopac, or mopac from conda-forge",
        command="mopac",
        drivers=_POPULATIONS,
    ),
    "torchani": Program(module=_QCENGINE, install="pip install torchani", package="torchani"),
    "aimnet2": Program(
        module=_QCENGINE, install="pip install pyaimnet2", package="pyaimnet2", distribution="pyaimnet2"
    ),
    "mace": Program(
        module=_QCENGINE, install="pip install mace-torch", package="mace", distribution="mace-torch"
    ),
}


@cache
def program_entry(program: str) -> Program | None:
    """Look a program up; one that only QCEngine knows runs through its harness; None for an unknown name."""
    if program in PROGRAMS:
        return PROGRAMS[program]
    import qcengine  # 0.5 s that only such a name pays

    if program not in qcengine.list_all_programs() - _NOT_ENGINES:
        return None
    return Program(module=_QCENGINE, install=f"see QCEngine's page on {program}")


@cache
def methods_of(program: str) -> tuple[str, ...]:
    """List the methods that a program computes; none for one that only QCEngine knows: it has its own."""
    return tuple(name for name, method in METHODS.items() if program in method.programs)


def is_installed(program: str) -> bool:
    """Tell whether a program can be started, without starting it."""
    entry = program_entry(program)
    if entry is None:
        return False
    if entry.command is not None:
        return which(entry.command) is not None
    if entry.package is not None:
        return find_spec(entry.package) is not None
    import qcengine

    return program in qcengine.list_available_programs()


def is_computed_with(program: str) -> bool:
    """Tell whether QCEngine has a harness for an engine of this name, here or on a server."""
    import qcengine

    return program in qcengine.list_all_programs() - _NOT_ENGINES


def other_programs() -> tuple[str, ...]:
    """List the programs, installed here, that are computed with through QCEngine alone."""
    import qcengine

    return tuple(sorted(qcengine.list_available_programs() - _NOT_ENGINES - PROGRAMS.keys()))
