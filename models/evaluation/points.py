"""Score methods side by side at the QM geometries of a table; leave the figures, the rows and the plots."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from models.dataset import QMExample, read_qm_examples
from models.evaluation.plots import write_plots
from models.evaluation.scoring import (
    EvaluationSettings,
    LeftOut,
    Method,
    Scores,
    Summary,
    evaluate_rows,
    restrict_to_common,
    summarise,
)
from pipeline.errors import OutputFolderError


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """What `evaluation.json` holds."""

    model: tuple[tuple[str, str], ...]
    """name, version and hash of the model; empty when only baselines were scored"""
    data: tuple[tuple[str, str], ...]
    """name and SHA-256 of the data table"""
    settings: EvaluationSettings
    n_rows: int
    """rows read; those with unsupported elements are counted in n_unsupported instead"""
    n_unsupported: int
    summaries: tuple[Summary, ...]
    left_out: tuple[tuple[str, tuple[LeftOut, ...]], ...]
    """per method, the rows it could not score and why"""
    files: tuple[str, ...]
    """what was written beside the report"""

    def to_json(self) -> str:
        """Serialise, keys sorted."""
        values: dict[str, Any] = dataclasses.asdict(self)
        for name in ("model", "data", "left_out"):
            values[name] = dict(values[name])
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def to_text(self) -> str:
        """Show energy RMSE per row at the QM geometries, over the rows that every method scores, kcal/mol."""
        header = (
            f"{'source':<17}{'method':<16}{'rows':>5}  {'mean (95 %)':<20}{'median':>7}{'p90':>7}{'force':>7}"
        )
        lines = [header]
        for s in (s for s in self.summaries if s.scope == "common"):
            force = f"{s.force:7.2f}" if s.force is not None else f"{'-':>7}"
            interval = f"{s.mean:.2f} ({s.mean_low:.2f}-{s.mean_high:.2f})"
            figures = f"{interval:<20}{s.median:>7.2f}{s.p90:>7.2f}{force}"
            lines.append(f"{s.source:<17}{s.method:<16}{s.n_rows:>5}  {figures}")
        return "\n".join(lines)


def compare(
    methods: Mapping[str, Method],
    data: Path,
    out: Path,
    *,
    settings: EvaluationSettings | None = None,
    model: tuple[tuple[str, str], ...] = (),
) -> EvaluationReport:
    """Score any methods side by side; the first is the one whose torsions are shown in the plots."""
    read = (*read_qm_examples(data), data)  # a table that is missing leaves no folder
    make_folder(out)
    return compare_examples(methods, read, out, settings=settings, model=model)


def compare_examples(
    methods: Mapping[str, Method],
    read: tuple[Sequence[QMExample], int, Path],
    out: Path,
    *,
    settings: EvaluationSettings | None = None,
    model: tuple[tuple[str, str], ...] = (),
) -> EvaluationReport:
    """Do the same for rows that were read already: examples, the number left out, and their table."""
    settings = settings or EvaluationSettings()
    examples, n_unsupported, data = read
    examples = spread_over_sources(examples, settings.max_rows)
    scores = [evaluate_rows(examples, method, name, settings) for name, method in methods.items()]
    plots = write_plots(restrict_to_common(scores), examples, out)
    _write_rows(scores, out / "rows.csv")
    report = EvaluationReport(
        model=model,
        data=(("name", data.name), ("sha256", hashlib.sha256(data.read_bytes()).hexdigest())),
        settings=settings,
        n_rows=len(examples),
        n_unsupported=n_unsupported,
        summaries=summarise(scores, settings),
        left_out=tuple((method.method, method.left_out) for method in scores),
        files=("rows.csv", *plots),
    )
    (out / "evaluation.json").write_text(report.to_json())
    return report


def spread_over_sources(examples: Sequence[QMExample], max_rows: int | None) -> list[QMExample]:
    """Take at most `max_rows` of each source, evenly spread, in the order of the table; None: all."""
    if max_rows is None:
        return list(examples)
    kept: list[int] = []
    for source in sorted({example.source for example in examples}):
        numbers = [number for number, example in enumerate(examples) if example.source == source]
        n = min(max_rows, len(numbers))
        kept += [numbers[len(numbers) * k // n] for k in range(n)]
    return [examples[number] for number in sorted(kept)]


def make_folder(out: Path) -> None:
    """Make the output folder; OutputFolderError says why not."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFolderError(f"{out} cannot be made: {error}; choose another folder") from error


def _write_rows(scores: Sequence[Scores], path: Path) -> None:
    """One line per row and method, in the order of the table."""
    columns = ("row", "key", "source", "kind", "total_charge")
    figures = ("energy_rmse", "energy_rmse_windowed", "force_rmse")
    rows = [
        {
            "method": method.method,
            **{name: getattr(row, name) for name in (*columns, *figures)},
            "n_points": len(row.qm_energy),
            "n_in_window": int(row.in_window.sum()),
        }
        for method in scores
        for row in method.rows
    ]
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")
