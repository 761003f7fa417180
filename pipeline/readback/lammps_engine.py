"""LAMMPS itself weighs its files: the delivered script, then a rerun over the reference geometries."""

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.process.program import refusal_is_a_difference, run_program
from pipeline.readback.energies import TERMS
from pipeline.readback.files import Check
from pipeline.readback.lammps import read_sections
from pipeline.schema import EnergyReport, FloatArray
from pipeline.units import COULOMB_CONSTANT, LAMMPS_COULOMB_CONSTANT
from pipeline.verify import Reference, check_engine

PROGRAM = "lmp"
SECONDS = 120.0
"""wall-clock limit; a second is usual"""

_THERMO = ("ebond", "eangle", "edihed", "eimp", "evdwl", "ecoul")
"""in the order of EnergyReport"""
_BONDED = ("bond", "angle", "proper")
"""the terms to which LAMMPS counts what class II adds"""
_ROW = re.compile(r"^\s*\d+((?:\s+[-+.\deE]+){6})\s*$", re.MULTILINE)

_SCRIPT = """\
include {script}
thermo_style custom step {thermo}
thermo_modify format float %.15g
thermo 1
dump forces all custom 1 forces.dump id fx fy fz
dump_modify forces sort id format float %.16g
print "rerun starts"
rerun geometries.dump dump x y z
"""


def check_lammps_in_engine(path: Path, reference: Reference) -> list[Check]:
    """Let LAMMPS compute the energies of the delivered script and data, term by term, and forces; compare.

    LAMMPS' Coulomb constant is 1e-8 smaller than ours: its Coulomb energies are scaled by the ratio, and
    the forces by adding what the ratio lacks. Raises VerificationError for a difference or a
    file that LAMMPS refuses, ChildError where the program is missing, dies or hangs.
    """
    prefix = "parmflow-lammps-"
    class2 = reference.parametrized.parameters.cross is not None
    with tempfile.TemporaryDirectory(prefix=prefix) as name, refusal_is_a_difference(path.name):
        folder = Path(name)
        for file in ("ligand.in", "ligand.data"):
            (folder / file).write_bytes((path.parent / file).read_bytes())
        (folder / "geometries.dump").write_text(_dump(reference.geometries))
        script = _SCRIPT.format(script=path.name, thermo=" ".join(_THERMO))
        if class2:
            script += _without_cross((folder / "ligand.data").read_text(encoding="utf-8"))
        (folder / "check.in").write_text(script)
        command = [PROGRAM, "-in", "check.in", "-log", "none", "-nocite"]
        output = run_program(command, folder, seconds=SECONDS)
        forces = _read_forces(folder / "forces.dump", reference)
    reports = _read_energies(output.split("rerun starts")[1])
    if class2:
        reports = _split_cross(reports, _read_energies(output.split("rerun starts")[-1]))
    version = re.search(r"LAMMPS \(([^)]*)\)", output)
    reader = f"LAMMPS {version[1] if version else ''}".strip()
    return [check_engine(reference, reports, forces, file=path.name, reader=reader)]


def _without_cross(data: str) -> str:
    """Commands that take out what class II adds, by the data file's own types, and weigh what is left.

    LAMMPS counts couplings to the bonds, angles and dihedrals: the difference between the two runs is them.
    """
    sections = read_sections(data, class2=True)
    lines = ["undump forces", 'print "rerun starts"']
    lines += [f"bond_coeff {n} {rest} {k} 0 0" for n, rest, k, *_ in sections["Bond Coeffs"]]
    for n, rest, k, *_ in sections["Angle Coeffs"]:
        lines += [
            f"angle_coeff {n} {rest} {k} 0 0",
            f"angle_coeff {n} bb 0 1 1",
            f"angle_coeff {n} ba 0 0 1 1",
        ]
    for n, style, *_ in sections["Dihedral Coeffs"]:
        if style == "class2":
            zeros = ("mbt 0 0 0 1", "at 0 0 0 0 0 0 90 90", "aat 0 90 90")
            lines += [f"dihedral_coeff {n} class2 {words}" for words in zeros]
    return "\n".join([*lines, "rerun geometries.dump dump x y z", ""])


def _split_cross(
    whole: tuple[EnergyReport, ...], parts: tuple[EnergyReport, ...]
) -> tuple[EnergyReport, ...]:
    """The class I terms of `parts`, and as `cross` what the bonded terms of `whole` have beyond them."""
    return tuple(
        replace(part, cross=sum(getattr(all_, term) - getattr(part, term) for term in _BONDED))
        for all_, part in zip(whole, parts, strict=True)
    )


def _dump(geometries: FloatArray) -> str:
    """The geometries as a LAMMPS dump, one step each."""
    frames = []
    for step, coords in enumerate(geometries):
        low, high = coords.min(axis=0) - 1.0, coords.max(axis=0) + 1.0
        bounds = [f"{start:.6f} {end:.6f}" for start, end in zip(low, high, strict=True)]
        atoms = [f"{number} {x:.15g} {y:.15g} {z:.15g}" for number, (x, y, z) in enumerate(coords, start=1)]
        head = [str(step), "ITEM: NUMBER OF ATOMS", str(len(coords)), "ITEM: BOX BOUNDS mm mm mm", *bounds]
        frames.append("\n".join(["ITEM: TIMESTEP", *head, "ITEM: ATOMS id x y z", *atoms]) + "\n")
    return "".join(frames)


def _read_energies(output: str) -> tuple[EnergyReport, ...]:
    reports = []
    for match in _ROW.finditer(output):
        bond, angle, proper, improper, vdw, coulomb = map(float, match[1].split())
        report = EnergyReport(
            bond=bond,
            angle=angle,
            proper=proper,
            improper=improper,
            vdw=vdw,
            coulomb=coulomb * COULOMB_CONSTANT / LAMMPS_COULOMB_CONSTANT,
        )
        reports.append(report)
    return tuple(reports)


def _read_forces(path: Path, reference: Reference) -> FloatArray:
    """Total forces with our Coulomb constant: (n_geometries, n_atoms, 3), kcal/mol/angstrom."""
    blocks = path.read_text().split("ITEM: ATOMS id fx fy fz\n")[1:]
    rows = [np.array(block.split("ITEM:")[0].split(), dtype=np.float64).reshape(-1, 4) for block in blocks]
    coulomb = reference.forces[:, TERMS.index("coulomb")]
    lacking = coulomb * (1.0 - LAMMPS_COULOMB_CONSTANT / COULOMB_CONSTANT)
    forces: FloatArray = np.array([row[:, 1:] for row in rows]) + lacking
    return forces
