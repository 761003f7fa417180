"""DOOR to figures that others have published for our rows, to stand beside what our own code measures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from models.dataset import QMExample
from models.evaluation.relaxed import RelaxedRow, RelaxedScores
from pipeline.schema import FloatArray

COLUMNS: Mapping[str, str] = {
    "published OpenFF 2.2.1": "openff-2.2.1",
    "published espaloma 0.3": "espaloma-0.3",
}
"""name shown -> prefix of the columns _dde, _rmsd, _tfd; one row per record_id"""


def read_published(table: Path, data: Path, examples: Sequence[QMExample]) -> tuple[RelaxedScores, ...]:
    """Read the published ddE, RMSD and TFD of the minima among `examples`; none when there is no table.

    `data` is the QM table that the examples were read from: its column record_ids names each conformer.
    Unknown values are NaN. RMSD and TFD of other tools compare with each other only, not with ours.
    """
    if not table.is_file():
        return ()
    values = pd.read_parquet(table).set_index("record_id")
    qm = pd.read_parquet(data, columns=["mapped_smiles", "kind", "record_ids"])
    qm = qm[(qm["kind"] == "minima") & qm["record_ids"].notna()]
    records = dict(zip(qm["mapped_smiles"], qm["record_ids"], strict=True))
    known = {
        number: values.reindex(list(records[example.ligand.mapped_smiles]))
        for number, example in enumerate(examples)
        if example.kind == "minima" and example.ligand.mapped_smiles in records
    }
    return tuple(
        RelaxedScores(
            method=name,
            rows=tuple(_row(number, examples[number], rows, prefix) for number, rows in known.items()),
            left_out=(),
        )
        for name, prefix in COLUMNS.items()
    )


def _row(number: int, example: QMExample, rows: pd.DataFrame, prefix: str) -> RelaxedRow:
    def column(name: str) -> FloatArray:
        return np.array(rows[f"{prefix}_{name}"], dtype=np.float64)

    return RelaxedRow(
        row=number,
        key=example.key,
        total_charge=example.ligand.total_charge,
        qm_energy=example.energy - example.energy.min(),
        dde=column("dde"),
        rmsd=column("rmsd"),
        tfd=column("tfd"),
        converged=np.ones(len(example.energy), dtype=bool),
    )
