"""Results whose energy is far from that of the same molecule's other geometries."""

from collections.abc import Iterable

import numpy as np

from pipeline.schema import QMRecord, QMSpec
from pipeline.store import QMStore

_FEWEST = 4
"""geometries of which three agree before the fourth can be wrong"""
_SPREADS = 8.0
_BASE, _PER_ATOM = 30.0, 3.0
"""kcal/mol. Copies displaced by 0.04 angstrom lie 1 to 2 kcal/mol per atom above their minimum, conformers
some 10 apart, while a wrong electronic state or a broken geometry is off by hundreds."""


def flag_outliers(store: QMStore, records: Iterable[QMRecord]) -> list[str]:
    """Flag the records whose energy is implausible among its molecule's others; return their task keys.

    An energy is implausible when it is further from the median than 30 kcal/mol plus 3 per atom and further
    than eight times the median distance. All records of one molecule must have the atoms of one molecule.
    """
    alike: dict[tuple[str, QMSpec, int], list[QMRecord]] = {}
    for record in records:
        alike.setdefault((record.ligand_key, record.spec, len(record.coords)), []).append(record)
    flagged = []
    for some in alike.values():
        for record, distance in _far_off(some):
            message = (
                f"energy {distance:+.0f} kcal/mol from the median of its molecule's {len(some)} geometries"
            )
            store.flag(record.task_key, "outlier", message)
            flagged.append(record.task_key)
    return flagged


def _far_off(records: list[QMRecord]) -> list[tuple[QMRecord, float]]:
    if len(records) < _FEWEST:
        return []
    energies = np.array([record.energy for record in records])
    distances = energies - np.median(energies)
    usual = float(np.median(np.abs(distances)))
    limit = max(_BASE + _PER_ATOM * len(records[0].coords), _SPREADS * usual)
    return [
        (record, float(distance))
        for record, distance in zip(records, distances, strict=True)
        if abs(distance) > limit
    ]
