"""The three improper rows about a centre as one: formats that list a centre once have one k for them."""

import numpy as np

from pipeline.errors import ExportError
from pipeline.export.patterns import SAME_ABSOLUTE, SAME_RELATIVE
from pipeline.schema import FloatArray, MMParameters, Topology


def sum_trefoils(topology: Topology, parameters: MMParameters) -> FloatArray:
    """Add up the three force constants of each centre: (n_centres, n_periodicities), kcal/mol.

    Raises ExportError where the three differ: neither SMIRNOFF nor OpenMM's `smirnoff` ordering has a form
    for that.
    """
    by_centre = parameters.improper_k.reshape(-1, 3, parameters.improper_k.shape[1])
    spread = np.ptp(by_centre, axis=1)
    if (spread > SAME_ABSOLUTE + SAME_RELATIVE * np.abs(by_centre).max(axis=1)).any():
        centre = int(topology.impropers[3 * int(spread.max(axis=1).argmax()), 1])
        raise ExportError(f"three improper rows about atom {centre + 1} differ; a file has one k for them")
    total: FloatArray = by_centre.sum(axis=1)
    return total
