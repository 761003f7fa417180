"""Second derivatives from gradients, for engines that have no others. Runs beside the engine."""

import dataclasses
from collections.abc import Callable

import numpy as np

from pipeline.qm.result import EngineResult
from pipeline.schema import QMTask
from pipeline.units import ANGSTROM_PER_BOHR

_STEP = 0.01
"""bohr; the anharmonicity of a bond then costs 1e-4 hartree/bohr^2, noise of 1e-6 in a gradient as much"""


def hessian_by_differences(task: QMTask, compute: Callable[[QMTask], EngineResult]) -> EngineResult:
    """Compute energy, gradient and, by central differences of 6 n_atoms gradients, the Hessian of a geometry.

    H[i, j] = (g_j(x + h e_i) - g_j(x - h e_i)) / 2h, then the mean of both triangles.
    """
    spec = dataclasses.replace(task.spec, driver="gradient")
    centre = compute(dataclasses.replace(task, spec=spec))
    n_atoms = len(task.atomic_numbers)
    rows = []
    for place in range(3 * n_atoms):
        step = np.zeros(3 * n_atoms)
        step[place] = _STEP * ANGSTROM_PER_BOHR
        ends = []
        for sign in (1, -1):
            moved = task.coords + sign * step.reshape(n_atoms, 3)
            result = compute(dataclasses.replace(task, spec=spec, coords=moved))
            assert result.gradient is not None
            ends.append(result.gradient.ravel())
        rows.append((ends[0] - ends[1]) / (2 * _STEP))
    hessian = np.array(rows)
    return dataclasses.replace(
        centre,
        hessian=(hessian + hessian.T) / 2,
        provenance=centre.provenance | {"hessian": f"central differences of gradients, {_STEP:g} bohr"},
    )
