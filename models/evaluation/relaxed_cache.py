"""DOOR to the scores of a baseline, kept as JSON so that it is minimised once for a data table.

<folder>/relaxed-<method>-<hash>.json     the hash covers everything that decides the figures
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluation.relaxed import RelaxedRow, RelaxedScores
from models.evaluation.scoring import LeftOut
from pipeline.errors import OutputFolderError

FORMAT = 1
"""Changes when the same inputs would give other figures, or another file."""

_FIGURES = ("qm_energy", "dde", "rmsd", "tfd")


def scores_or_compute(
    folder: Path, identity: tuple[str, ...], compute: Callable[[], RelaxedScores]
) -> RelaxedScores:
    """Read the scores of exactly this identity from the folder, or compute and keep them.

    `identity` begins with the method's name and holds the hashes of its files, the data and the settings. A
    file that cannot be read as such scores is computed anew. Raises OutputFolderError when it cannot be kept.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, *identity]).encode()).hexdigest()[:16]
    slug = "".join(char if char.isalnum() else "-" for char in identity[0].lower())
    path = folder / f"relaxed-{slug}-{digest}.json"
    if path.is_file():
        try:
            return scores_from_json(path.read_text())
        except (ValueError, KeyError, TypeError):
            pass
    scores = compute()
    try:
        path.write_text(scores_to_json(scores))
    except OSError as error:
        raise OutputFolderError(f"{path} cannot be written: {error}; choose another folder") from error
    return scores


def scores_to_json(scores: RelaxedScores) -> str:
    """Serialise; NaN (a molecule without torsions has no TFD) becomes null."""
    rows = [
        {
            "row": row.row,
            "key": row.key,
            "total_charge": row.total_charge,
            "converged": row.converged.tolist(),
            **{name: _with_nulls(getattr(row, name)) for name in _FIGURES},
        }
        for row in scores.rows
    ]
    left_out = [vars(row) for row in scores.left_out]
    return json.dumps({"method": scores.method, "rows": rows, "left_out": left_out}, indent=1) + "\n"


def scores_from_json(text: str) -> RelaxedScores:
    """Read what `scores_to_json` wrote; ValueError, KeyError or TypeError for anything else."""
    values: dict[str, Any] = json.loads(text)
    rows = tuple(
        RelaxedRow(
            row=int(row["row"]),
            key=row["key"],
            total_charge=int(row["total_charge"]),
            converged=np.array(row["converged"], dtype=bool),
            **{name: np.array(row[name], dtype=np.float64) for name in _FIGURES},
        )
        for row in values["rows"]
    )
    left_out = tuple(LeftOut(**row) for row in values["left_out"])
    return RelaxedScores(method=values["method"], rows=rows, left_out=left_out)


def _with_nulls(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]
