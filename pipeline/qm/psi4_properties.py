"""Dipole, bond orders and electrostatic potential by psi4, which QCEngine does not pass on: our own input.

The input is a Python program for psi4's interpreter; it leaves its answer in a JSON file, and psi4's own
GRID_ESP the potential on the points of `grid.dat`.
"""

import json
from pathlib import Path

import numpy as np
from qcelemental import periodictable

from pipeline.errors import ChildError
from pipeline.process.program import run_program
from pipeline.qm.dispersion import corrections
from pipeline.qm.esp_grid import shell_points
from pipeline.qm.faults import error_from_text
from pipeline.qm.levels import basis_of
from pipeline.qm.populations import wiberg_bond_orders
from pipeline.qm.result import EngineResult, to_bohr
from pipeline.schema import FloatArray, QMTask
from pipeline.units import ANGSTROM_PER_BOHR

_INPUT = """\
memory {memory_mb} mb
molecule ligand {{
{charge} 1
{atoms}
units bohr
no_com
no_reorient
symmetry c1
}}
import json
import numpy as np
set_options({options})
basis {{
{bases}
}}
energy, wfn = energy({method!r}, return_wfn=True)
oeprop(wfn, {wanted}, title="PARMFLOW")
basis = wfn.basisset()
answer = {{
    "energy": energy,
    "geometry": np.asarray(wfn.molecule().geometry()).tolist(),
    "dipole_debye": [variable("PARMFLOW DIPOLE " + axis) for axis in "XYZ"],
    "density": (2 * np.asarray(wfn.Da())).tolist(),
    "overlap": np.asarray(wfn.S()).tolist(),
    "centers": [basis.function_to_center(function) for function in range(basis.nbf())],
}}
with open("answer.json", "w") as file:
    json.dump(answer, file)
"""
_DEBYE_PER_ATOMIC_UNIT = 2.541746473
_SECONDS = 1e6
"""The door's own limit on the job ends it long before."""


def compute_properties(
    task: QMTask, options: dict[str, object], n_cores: int, memory_mb: int
) -> EngineResult:
    """Run one SCF with these options and take its one-electron properties; QMError kind scf as psi4 says."""
    folder = Path.cwd()
    points = None
    wanted = ['"DIPOLE"']
    if task.spec.driver == "esp":
        points = shell_points(task.atomic_numbers, task.coords)
        # psi4 reads it in the units of the molecule, which are bohr here.
        np.savetxt(folder / "grid.dat", points / ANGSTROM_PER_BOHR, fmt="%.12f")
        wanted.append('"GRID_ESP"')
    atoms = [
        f"{periodictable.to_E(int(number))} " + " ".join(f"{x:.12f}" for x in row)
        for number, row in zip(task.atomic_numbers, to_bohr(task), strict=True)
    ]
    text = _INPUT.format(
        memory_mb=memory_mb,
        charge=task.total_charge,
        atoms="\n".join(atoms),
        options=options,
        bases="\n".join(_bases(task)),
        method=task.spec.method,
        wanted=", ".join(wanted),
    )
    (folder / "job.in").write_text(text)
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    _run(task, folder, n_cores)
    return _read(task, json.loads(answer.read_text()), points)


def _bases(task: QMTask) -> list[str]:
    """Assign the basis to all, then to elements that it lacks another's."""
    elements = {
        periodictable.to_E(number): basis_of(task.spec, number)
        for number in set(task.atomic_numbers.tolist())
    }
    others = [f"assign {name} {basis}" for name, basis in elements.items() if basis != task.spec.basis]
    return [f"assign {task.spec.basis}", *others]


def _run(task: QMTask, folder: Path, n_cores: int) -> None:
    try:
        run_program(["psi4", "job.in", "job.out", "-n", str(n_cores)], folder, seconds=_SECONDS)
    except ChildError as error:
        output = folder / "job.out"
        words = output.read_text(errors="replace") if output.is_file() else ""
        raise error_from_text(f"{words}\n{error}", who=f"{task.ligand_key}: psi4") from error


def _read(task: QMTask, answer: dict, points: FloatArray | None) -> EngineResult:
    centers = answer["centers"]
    starts = [centers.index(atom) for atom in range(len(task.atomic_numbers))]
    esp = None
    if points is not None:
        potential = np.loadtxt("grid_esp.dat", ndmin=1)
        esp = np.column_stack([points / ANGSTROM_PER_BOHR, potential])
    return EngineResult(
        energy=answer["energy"] + sum(extra.energy for extra in corrections(task)),
        gradient=None,
        coords=np.array(answer["geometry"]) * ANGSTROM_PER_BOHR,
        dipole=np.array(answer["dipole_debye"]) / _DEBYE_PER_ATOMIC_UNIT,
        bond_orders=wiberg_bond_orders(np.array(answer["density"]), np.array(answer["overlap"]), starts),
        esp=esp,
        provenance={},
    )
