"""GROMACS itself weighs its files: a rerun in double precision over the reference geometries."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.export.gromacs import MOLECULE_FILE, TYPES_FILE, box_side, gro_frame
from pipeline.process.program import refusal_is_a_difference, run_program
from pipeline.readback.files import Check
from pipeline.schema import EnergyReport, FloatArray
from pipeline.units import ANGSTROM_PER_NM, KJ_PER_KCAL
from pipeline.verify import Reference, check_engine

PROGRAM = "gmx_d"
SECONDS = 120.0
"""wall-clock limit of each step; all together take half a second"""

_FILES = ("ligand.top", MOLECULE_FILE, TYPES_FILE, "ligand.gro")

_CUTOFF_FRACTION = 0.45
"""of the box: beyond any distance in the ligand, below half a box"""

_TERMS = {
    "Bond": "bond",
    "Angle": "angle",
    "Proper-Dih.": "proper",
    "Per.-Imp.-Dih.": "improper",
    "LJ-14": "vdw",
    "Coulomb-14": "coulomb",
    "LJ-(SR)": "vdw",
    "Coulomb-(SR)": "coulomb",
}
"""GROMACS' terms in the order of its energy file, which is that of the columns it prints"""

_SETTINGS = """\
integrator = md
continuation = yes
nsteps = 0
cutoff-scheme = Verlet
verlet-buffer-tolerance = -1
rlist = {cutoff}
rcoulomb = {cutoff}
rvdw = {cutoff}
coulombtype = Cut-off
epsilon-rf = 1
coulomb-modifier = None
vdw-modifier = None
DispCorr = no
constraints = none
nstenergy = 1
nstcalcenergy = 1
nstxout = 1
nstfout = 1
"""


def check_top_in_gromacs(path: Path, reference: Reference) -> list[Check]:
    """Let GROMACS compute the topology's energies, term by term, and its forces, and compare.

    Its Coulomb constant is ours, CODATA 2018. Raises VerificationError for a difference or a file that
    GROMACS refuses, ChildError where the program is missing, dies or hangs.
    """
    prefix = "parmflow-gromacs-"
    with tempfile.TemporaryDirectory(prefix=prefix) as name, refusal_is_a_difference(path.name):
        folder = Path(name)
        _lay_out(path.parent, folder, reference)
        version = rerun(folder, _cutoff(reference.geometries))
        reports = _read_reports(folder, reference)
        forces = _read_forces(folder, reference)
    return [check_engine(reference, reports, forces, file=path.name, reader=version)]


def rerun(folder: Path, cutoff: float) -> str:
    """Go over the frames of `geometries.gro` with `ligand.top`, both in `folder`; name the program's version.

    `cutoff` in nm. It leaves `point.edr` and `point.trr`.
    """
    (folder / "point.mdp").write_text(_SETTINGS.format(cutoff=cutoff))
    prepare = "grompp -f point.mdp -p ligand.top -c ligand.gro -o point.tpr -po all.mdp"
    over_frames = "mdrun -s point.tpr -rerun geometries.gro -deffnm point -ntmpi 1 -ntomp 1 -nb cpu -pin off"
    run_program([PROGRAM, *prepare.split()], folder, seconds=SECONDS)
    output = run_program([PROGRAM, *over_frames.split()], folder, seconds=SECONDS)
    version = re.search(r"GROMACS - [^,]*, ([\d.]*)", output)
    return f"GROMACS {version[1] if version else ''}".strip()


def read_energies(folder: Path, names: Sequence[str]) -> FloatArray:
    """Read terms out of `point.edr` in full precision: (n_frames, n_names), kJ/mol.

    `names` are GROMACS' own, in the order of the energy file.
    """
    run_program(
        [PROGRAM, "energy", "-f", "point.edr", "-o", "energy.xvg", "-dp", "-xvg", "none"],
        folder,
        seconds=SECONDS,
        answers="\n".join([*names, "", ""]),
    )
    energies: FloatArray = np.loadtxt(folder / "energy.xvg", ndmin=2)[:, 1:]
    return energies


def _cutoff(geometries: FloatArray) -> float:
    return _CUTOFF_FRACTION * min(box_side(coords / ANGSTROM_PER_NM) for coords in geometries)


def _lay_out(source: Path, folder: Path, reference: Reference) -> None:
    """Copy the delivered files and write the geometries."""
    frames = [gro_frame(reference.parametrized, coords) for coords in reference.geometries]
    (folder / "geometries.gro").write_text("".join(frames))
    (folder / "ligand.gro").write_text(frames[0])
    for file in _FILES:
        if (source / file).exists():  # no gro is delivered without coordinates
            shutil.copy(source / file, folder)


def _read_reports(folder: Path, reference: Reference) -> tuple[EnergyReport, ...]:
    """Take the terms that this ligand has out of the energy file."""
    topology, parameters = reference.parametrized.topology, reference.parametrized.parameters
    there = {
        "Bond": len(topology.bonds) > 0,
        "Angle": len(topology.angles) > 0,
        "Proper-Dih.": parameters.proper_k.any(),
        "Per.-Imp.-Dih.": parameters.improper_k.any(),
        "LJ-14": len(topology.pairs_14) > 0,
        "Coulomb-14": len(topology.pairs_14) > 0,
    }
    names = [name for name in _TERMS if there.get(name, True)]
    reports = []
    for row in (read_energies(folder, names) / KJ_PER_KCAL).tolist():
        terms = dict.fromkeys(_TERMS.values(), 0.0)
        for name, energy in zip(names, row, strict=True):
            terms[_TERMS[name]] += energy
        reports.append(EnergyReport(**terms))
    return tuple(reports)


def _read_forces(folder: Path, reference: Reference) -> FloatArray:
    """Total forces, (n_geometries, n_atoms, 3) in kcal/mol/angstrom."""
    run_program(
        [PROGRAM, "traj", "-f", "point.trr", "-s", "point.tpr", "-of", "force.xvg", "-fp", "-xvg", "none"],
        folder,
        seconds=SECONDS,
        answers="System\n",
    )
    rows = np.loadtxt(folder / "force.xvg", ndmin=2)[:, 1:] / (KJ_PER_KCAL * ANGSTROM_PER_NM)
    forces: FloatArray = rows.reshape(len(rows), reference.parametrized.topology.n_atoms, 3)
    return forces
