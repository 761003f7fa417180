"""GROMACS itself weighs its files: a rerun in double precision over the reference geometries."""

import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from pipeline.export.gromacs import MOLECULE_FILE, TYPES_FILE, box_side, gro_frame
from pipeline.program import run_program
from pipeline.readback import Check
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

    Its Coulomb constant is ours, CODATA 2018. Raises VerificationError for a difference, ChildError where the
    program is missing, fails or hangs.
    """
    with tempfile.TemporaryDirectory(prefix="parmflow-gromacs-") as name:
        folder = Path(name)
        version = _run(path.parent, folder, reference)
        reports = _read_energies(folder, reference)
        forces = _read_forces(folder, reference)
    return [check_engine(reference, reports, forces, file=path.name, reader=version)]


def _run(source: Path, folder: Path, reference: Reference) -> str:
    """Preprocess the delivered files, go over the geometries; return the program's name and version."""
    parametrized, geometries = reference.parametrized, reference.geometries
    frames = [gro_frame(parametrized, coords) for coords in geometries]
    (folder / "geometries.gro").write_text("".join(frames))
    (folder / "ligand.gro").write_text(frames[0])
    for file in _FILES:
        if (source / file).exists():  # no gro is delivered without coordinates
            shutil.copy(source / file, folder)
    cutoff = _CUTOFF_FRACTION * min(box_side(coords / ANGSTROM_PER_NM) for coords in geometries)
    (folder / "point.mdp").write_text(_SETTINGS.format(cutoff=cutoff))
    prepare = "grompp -f point.mdp -p ligand.top -c ligand.gro -o point.tpr -po all.mdp"
    rerun = "mdrun -s point.tpr -rerun geometries.gro -deffnm point -ntmpi 1 -ntomp 1 -nb cpu -pin off"
    run_program([PROGRAM, *prepare.split()], folder, seconds=SECONDS)
    output = run_program([PROGRAM, *rerun.split()], folder, seconds=SECONDS)
    version = re.search(r"GROMACS - [^,]*, ([\d.]*)", output)
    return f"GROMACS {version[1] if version else ''}".strip()


def _read_energies(folder: Path, reference: Reference) -> tuple[EnergyReport, ...]:
    """Take the terms that this ligand has out of the energy file, in full precision."""
    topology, parameters = reference.parametrized.topology, reference.parametrized.parameters
    absent = {
        "Bond": not len(topology.bonds),
        "Angle": not len(topology.angles),
        "Proper-Dih.": not parameters.proper_k.any(),
        "Per.-Imp.-Dih.": not parameters.improper_k.any(),
        "LJ-14": not len(topology.pairs_14),
        "Coulomb-14": not len(topology.pairs_14),
    }
    names = [name for name in _TERMS if not absent.get(name, False)]
    run_program(
        [PROGRAM, "energy", "-f", "point.edr", "-o", "energy.xvg", "-dp", "-xvg", "none"],
        folder,
        seconds=SECONDS,
        answers="\n".join([*names, "", ""]),
    )
    rows = np.loadtxt(folder / "energy.xvg", ndmin=2)[:, 1:] / KJ_PER_KCAL
    reports = []
    for row in rows.tolist():
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
