"""Deliver a ligand: write its files aside, read each back, weigh it, and only then give them their name."""

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DiskError, ExportError, ParmflowError, is_full
from pipeline.export.amber import write_inpcrd, write_prmtop
from pipeline.export.gromacs import write_atomtypes_itp, write_gro, write_molecule_itp, write_top
from pipeline.export.lammps import write_lammps_data, write_lammps_input
from pipeline.export.leap import write_frcmod, write_leap_input, write_mol2
from pipeline.export.offxml import write_constrained_offxml, write_offxml
from pipeline.export.openmm_forcefield import write_openmm_forcefield
from pipeline.export.openmm_system import write_openmm_system
from pipeline.export.parameters_json import write_parameters_json
from pipeline.export.sdf import write_sdf
from pipeline.process.program import is_installed
from pipeline.readback import gromacs_engine, lammps_engine
from pipeline.readback.energies import TERMS
from pipeline.readback.files import (
    Check,
    Checker,
    check_constrained_offxml,
    check_inpcrd,
    check_offxml,
    check_openmm_system,
    check_parameters_json,
    check_prmtop,
    check_sdf,
    read_back,
)
from pipeline.readback.forcefield import check_openmm_forcefield
from pipeline.readback.gromacs import check_gro, check_top
from pipeline.readback.lammps import check_lammps
from pipeline.readback.leap import check_frcmod
from pipeline.readback.openff import check_offxml_in_openff
from pipeline.schema import Ligand, MMParameters, Parametrized
from pipeline.settings import CLASS2_LACKS, PAIR_TERM, CheckDepth, ExportSettings
from pipeline.shortcuts import shortcuts
from pipeline.topology import build_topology
from pipeline.units import AMBER_CHARGE_FACTOR, COULOMB_CONSTANT
from pipeline.verify import (
    DISPLACEMENTS,
    ENERGY_TOLERANCE,
    FORCE_TOLERANCE,
    RELATIVE_TOLERANCE,
    EnergyCheck,
    Reference,
    build_reference,
    check_parameters,
)

CHECK_FILE = "check.json"
_AMBER_NOTE = (
    "sander and pmemd compute Coulomb energies with 18.2223^2 kcal angstrom/(mol e^2): multiply the coulomb "
    "term by amber_coulomb_ratio to compare with them; the readers here use OpenMM's constant"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileKind:
    """One delivered file: who writes it, who reads it back, and whether it needs a geometry."""

    name: str
    format: str
    """the `formats` word that asks for it; empty: always written"""
    write: Callable[[Parametrized], str]
    check: Checker | None = None
    """None: read through the file of this format that includes it"""
    check_in_engine: Checker | None = None
    """the MD engine itself, under `check="all"`"""
    engine: str = ""
    """the program that this check cannot do without; OFFXML's does nothing where OpenFF is not installed"""
    needs_coords: bool = False
    holds_cross: bool = False
    """whether the format has anharmonic and coupled terms"""
    holds_pairs: bool = True
    """of those that have: whether it has `pipeline.settings.PAIR_TERM` too"""
    may_refuse: bool = False
    """whether its ExportError is only noted in `check.json`, and the ligand delivered without it"""

    def checkers(self, check: CheckDepth) -> list[Checker]:
        """Who reads this file back."""
        wanted = (self.check, self.check_in_engine) if check == "all" else (self.check,)
        return [checker for checker in wanted if checker is not None]


FILES = (
    FileKind(
        name="ligand.sdf", format="", write=write_sdf, check=check_sdf, needs_coords=True, holds_cross=True
    ),
    FileKind(
        name="ligand.offxml",
        format="offxml",
        write=write_offxml,
        check=check_offxml,
        check_in_engine=check_offxml_in_openff,
    ),
    FileKind(
        name="ligand.offxml",
        format="offxml-constrained",
        write=write_constrained_offxml,
        check=check_constrained_offxml,
        check_in_engine=check_offxml_in_openff,
    ),
    FileKind(name="ligand.prmtop", format="amber", write=write_prmtop, check=check_prmtop),
    FileKind(name="ligand.inpcrd", format="amber", write=write_inpcrd, check=check_inpcrd, needs_coords=True),
    FileKind(name="ligand.mol2", format="amber", write=write_mol2, needs_coords=True, may_refuse=True),
    FileKind(
        name="ligand.frcmod",
        format="amber",
        write=write_frcmod,
        check=check_frcmod,
        needs_coords=True,
        may_refuse=True,
    ),
    FileKind(name="ligand.leap", format="amber", write=write_leap_input, needs_coords=True, may_refuse=True),
    FileKind(
        name="openmm_system.xml",
        format="openmm",
        write=write_openmm_system,
        check=check_openmm_system,
        holds_cross=True,
    ),
    FileKind(
        name="openmm_forcefield.xml",
        format="openmm",
        write=write_openmm_forcefield,
        check=check_openmm_forcefield,
    ),
    FileKind(
        name="ligand.top",
        format="gromacs",
        write=write_top,
        check=check_top,
        check_in_engine=gromacs_engine.check_top_in_gromacs,
        engine=gromacs_engine.PROGRAM,
    ),
    FileKind(name="ligand.itp", format="gromacs", write=write_molecule_itp),
    FileKind(name="ligand_atomtypes.itp", format="gromacs", write=write_atomtypes_itp),
    FileKind(name="ligand.gro", format="gromacs", write=write_gro, check=check_gro, needs_coords=True),
    FileKind(
        name="ligand.in",
        format="lammps",
        write=write_lammps_input,
        check=check_lammps,
        check_in_engine=lammps_engine.check_lammps_in_engine,
        engine=lammps_engine.PROGRAM,
        needs_coords=True,
        holds_cross=True,
        holds_pairs=False,
    ),
    FileKind(
        name="ligand.data",
        format="lammps",
        write=write_lammps_data,
        needs_coords=True,
        holds_cross=True,
        holds_pairs=False,
    ),
    FileKind(
        name="parameters.json",
        format="",
        write=write_parameters_json,
        check=check_parameters_json,
        holds_cross=True,
    ),
)


def deliver(
    parametrized: Parametrized, folder: Path, formats: Sequence[str], check: CheckDepth = "in-process"
) -> tuple[str, ...]:
    """Write the ligand's files under `folder`, proved; return their names.

    `formats` are words of `--formats`; SDF, JSON and `check.json` are always written, files that need a
    geometry only when there is one; `check.json` says why a file was left out. `check` "all" has GROMACS and
    LAMMPS weigh their files too. The folder appears complete or not at all: files are written beside it, read
    back, and moved in one step; an older delivery stays until then.

    Raises ParametersError, ExportError or VerificationError about the ligand, DiskError about the disk.
    """
    check_parameters(parametrized.topology, parametrized.parameters, parametrized.ligand.total_charge)
    kinds = [kind for kind in FILES if kind.format in ("", *formats)]
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        temporary.mkdir()
        try:
            with shortcuts():
                names = _write_and_check(parametrized, temporary, kinds, check)
            _replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        advice = "; free space and run again" if is_full(error) else ""
        raise DiskError(f"{folder}: {error.strerror or error}{advice}") from error
    return names


def missing_programs(export: ExportSettings) -> list[str]:
    """Name the programs that these settings need for checking and that are not installed."""
    return [
        kind.engine
        for kind in FILES
        if kind.engine and export.check == "all" and kind.format in export.formats
        if not is_installed(kind.engine)
    ]


def warm_up() -> None:
    """Deliver a made-up ligand and throw it away: readers import and cache much when they are first used.

    The server of child processes does so once, that no child needs to. What fails here fails in the children
    too, and is reported there.
    """
    with contextlib.suppress(ParmflowError, OSError), tempfile.TemporaryDirectory() as folder:
        deliver(_acetamide(), Path(folder) / "ligand", ExportSettings().formats)


def _acetamide() -> Parametrized:
    """A small ligand with every kind of term; its numbers and its geometry are made up."""
    smiles = "[C:1]([C:2](=[O:3])[N:4]([H:5])[H:6])([H:7])([H:8])[H:9]"
    ligand = Ligand(name="acetamide", mapped_smiles=smiles, total_charge=0)
    topology = build_topology(ligand)
    n_atoms, n_bonds, n_angles = topology.n_atoms, len(topology.bonds), len(topology.angles)
    parameters = MMParameters(
        bond_k=np.full(n_bonds, 700.0),
        bond_length=np.full(n_bonds, 1.2),
        angle_k=np.full(n_angles, 100.0),
        angle_theta=np.full(n_angles, 2.0),
        proper_k=np.full((len(topology.propers), 6), 0.1),
        improper_k=np.full((len(topology.impropers), 2), 0.1),
        charge=np.zeros(n_atoms),
        sigma=np.full(n_atoms, 3.0),
        epsilon=np.full(n_atoms, 0.1),
    )
    turn = np.arange(n_atoms, dtype=np.float64)
    helix = np.column_stack([1.5 * np.cos(turn), 1.5 * np.sin(turn), 0.7 * turn])
    return Parametrized(id="acetamide", ligand=ligand, topology=topology, parameters=parameters, coords=helix)


def sweep(folder: Path) -> None:
    """Remove what an interrupted delivery of this folder left beside it."""
    leftover = re.compile(rf"\.{re.escape(folder.name)}\.\d+\.tmp")
    for sibling in folder.parent.glob(".*.tmp"):
        if leftover.fullmatch(sibling.name):
            shutil.rmtree(sibling, ignore_errors=True)


def _write_and_check(
    parametrized: Parametrized, folder: Path, kinds: Sequence[FileKind], check: CheckDepth
) -> tuple[str, ...]:
    reasons = {kind.name: _write(kind, parametrized, folder) for kind in kinds}
    written = [kind for kind in kinds if not reasons[kind.name]]
    reference = build_reference(parametrized)
    checks = [
        result
        for kind in written
        for checker in kind.checkers(check)
        for result in read_back(checker, folder / kind.name, reference)
    ]
    left_out = {name: reason for name, reason in reasons.items() if reason}
    document = _check_document(reference, checks) | {"left_out": left_out}
    (folder / CHECK_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return (*(kind.name for kind in written), CHECK_FILE)


def _write(kind: FileKind, parametrized: Parametrized, folder: Path) -> str:
    """Write one file; give the reason where it is left out, else nothing."""
    if kind.needs_coords and parametrized.coords is None:
        return "the ligand has no coordinates"
    cross = parametrized.parameters.cross
    if cross is not None and not kind.holds_cross:
        lacking = CLASS2_LACKS.get(kind.format, "bond-bond")
        return f"{kind.name}: the format has no {lacking} term, which this class II force field has"
    if cross is not None and cross.has_pairs and not kind.holds_pairs:
        return f"{kind.name}: the format has no {PAIR_TERM}, which this class II force field has"
    try:
        text = kind.write(parametrized)
    except ExportError as error:
        if not kind.may_refuse:
            raise
        return str(error)
    (folder / kind.name).write_text(text, encoding="utf-8", newline="\n")
    return ""


def _check_document(reference: Reference, checks: Sequence[Check]) -> dict[str, Any]:
    parametrized = reference.parametrized
    energies = [check.largest_difference for check in checks if isinstance(check, EnergyCheck)]
    return {
        "id": parametrized.id,
        "provenance": dict(parametrized.provenance),
        "units": {"energy": "kcal/mol", "force": "kcal/mol/angstrom"},
        "tolerance": {
            "energy": ENERGY_TOLERANCE,
            "force": FORCE_TOLERANCE,
            "relative": RELATIVE_TOLERANCE,
            "rule": "per term the larger of energy and relative x |term|; forces alike",
        },
        "geometries": [
            "as delivered",
            *(f"displaced by {scale} angstrom, standard deviation" for scale in DISPLACEMENTS),
        ],
        "amber_coulomb_ratio": AMBER_CHARGE_FACTOR**2 / COULOMB_CONSTANT,
        "amber_coulomb_note": _AMBER_NOTE,
        "reference": [dataclasses.asdict(report) for report in reference.reports],
        "largest_difference": {
            term: max((getattr(report, term) for report in energies), default=0.0) for term in TERMS
        },
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def _replace(temporary: Path, folder: Path) -> None:
    """Give the finished folder its name; where one exists the two change places in one step of the kernel."""
    if not folder.exists():
        temporary.rename(folder)
    elif not _exchange(temporary, folder):
        aside = folder.with_name(f".{folder.name}.{os.getpid()}0.tmp")
        folder.rename(aside)
        temporary.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names by Linux renameat2(RENAME_EXCHANGE); False where kernel or file system cannot."""
    at_cwd, exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), exchange) == 0)
