"""The whole table of goals for a pretrained force field: QM geometries, relaxed geometries, conformers.

`evaluate_goals` reads a data folder (see data/qm/README.md) and measures the model and its baselines by the
same code. A baseline whose files are not in the folder is left out of the table; published figures stand
beside it where there are any.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from models.dataset import QMExample, read_qm_examples
from models.evaluation.baselines import mmff94_method, read_charge_table, smirnoff_parametrise
from models.evaluation.conformer_energies import (
    ConformerScores,
    ConformerSummary,
    evaluate_conformers,
    read_conformer_set,
    summarise_conformers,
)
from models.evaluation.points import EvaluationReport, compare_examples, make_folder, spread_over_sources
from models.evaluation.published import read_published
from models.evaluation.relaxed import (
    RelaxedScores,
    RelaxedSummary,
    Relaxer,
    class1_relaxer,
    evaluate_relaxed,
    mmff94_relaxer,
    relaxed_in_common,
    restrict_relaxed,
    summarise_relaxed,
    worst_molecules,
)
from models.evaluation.relaxed_cache import scores_or_compute
from models.evaluation.relaxed_plots import draw_worst, write_relaxed_plots
from models.evaluation.scoring import EvaluationSettings, Method, class1_method
from models.evaluation.uncertainty import UncertaintySummary, error_against_uncertainty
from models.relax import RelaxSettings
from pipeline.errors import SettingsError
from pipeline.parametrize import Predictor

DEV = Path("qm") / "dev.parquet"
CONFORMERS = Path("benchmarks") / "folmsbee2020_conformers.parquet"
PUBLISHED = Path("benchmarks") / "industry_dev_baselines.parquet"
SAGE = Path("forcefields") / "openff_unconstrained-2.2.1.offxml"
CHARGES = Path("charges") / "am1bcc.parquet"
UNCERTAINTY_PLOT = "uncertainty.png"
SAGE_NAME, MMFF94_NAME = "Sage 2.2.1", "MMFF94"


@dataclass(frozen=True, kw_only=True)
class GoalSettings:
    """How much is measured, and how."""

    points: EvaluationSettings = field(default_factory=EvaluationSettings)
    relax: RelaxSettings = field(default_factory=RelaxSettings)
    baselines: tuple[str, ...] = (SAGE_NAME, MMFF94_NAME)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method in the table: its single points, its relaxed geometries, and what its figures hang on."""

    name: str
    identity: str
    """hash of the files behind it; scores are kept under it"""
    single_points: Method
    relaxer: Relaxer


@dataclass(frozen=True, kw_only=True)
class GoalReport:
    """What `goals.json` holds."""

    points: EvaluationReport
    relaxed: tuple[RelaxedSummary, ...]
    """the molecules that all methods score"""
    published: tuple[RelaxedSummary, ...]
    """other people's figures on the same molecules, by their own tools"""
    conformers: tuple[ConformerSummary, ...]
    left_out: tuple[tuple[str, int], ...]
    """rows of minima that a method could not relax"""
    uncertainty: UncertaintySummary | None
    """whether the errors of relaxed minima grow with the model's own uncertainty"""
    files: tuple[str, ...]

    def to_json(self) -> str:
        """Serialise, keys sorted."""
        values: dict[str, Any] = dataclasses.asdict(self)
        values["points"] = json.loads(self.points.to_json())
        values["left_out"] = dict(self.left_out)
        return json.dumps(values, indent=2, sort_keys=True) + "\n"

    def to_text(self) -> str:
        """Show every figure, a block per kind of measurement."""
        texts = (
            self._relaxed_text(),
            self.points.to_text(),
            self._conformer_text(),
            self._uncertainty_text(),
        )
        return "\n\n".join(text for text in texts if text)

    def _uncertainty_text(self) -> str:
        if self.uncertainty is None:
            return ""
        u = self.uncertainty
        errors = ", ".join(f"{error:.2f}" for error in u.group_error)
        return (
            f"uncertainty: Spearman's rho {u.rank_correlation:.2f} with the mean |ddE| of {u.n_molecules} "
            f"molecules; by fifths {errors}; {u.n_disputed} flagged for their torsions "
            f"{u.error_disputed:.2f}, {u.n_strange} for surroundings or charges {u.error_strange:.2f}, "
            f"inside the domain {u.error_inside:.2f} kcal/mol"
        )

    def _relaxed_text(self) -> str:
        lines = [
            f"{'relaxed minima':<24}{'confs':>6} |ddE|{'median':>7}{'mean':>6}{'signed':>8}"
            f"  RMSD{'median':>7}{'ratio':>6}  TFD{'median':>7}{'ratio':>6}{'unconverged':>13}"
        ]
        base = next((s for s in self.relaxed if s.method == SAGE_NAME), None)
        for s in (*self.relaxed, *self.published):
            comparable = base is not None and s in self.relaxed
            rmsd = f"{s.median_rmsd / base.median_rmsd:6.2f}" if base and comparable else f"{'-':>6}"
            tfd = f"{s.median_tfd / base.median_tfd:6.2f}" if base and comparable else f"{'-':>6}"
            dde = f"{s.median_dde:>7.2f}{s.mean_dde:>6.2f}{s.signed_dde:>8.2f}"
            lines.append(
                f"{s.method:<24}{s.n_confs:>6}      {dde}"
                f"      {s.median_rmsd:>7.3f}{rmsd}     {s.median_tfd:>7.4f}{tfd}{s.n_not_converged:>13}"
            )
        return "\n".join(lines)

    def _conformer_text(self) -> str:
        lines = [f"{'conformer energies':<24}{'mols':>6}{'median R2':>11}{'median r':>10}{'median MAE':>12}"]
        lines += [
            f"{s.method:<24}{s.n_molecules:>6}{s.median_r_squared:>11.3f}"
            f"{s.median_correlation:>10.2f}{s.median_error:>12.2f}"
            for s in self.conformers
        ]
        return "\n".join(lines)


def evaluate_goals(
    model: Predictor, folder: Path, out: Path, settings: GoalSettings | None = None
) -> GoalReport:
    """Measure a model and the baselines on a data folder and write the report below `out`.

    Writes goals.json, evaluation.json, rows.csv, relaxed.csv and the plots; relaxed scores of every method
    are kept beside them and used again. Raises SettingsError when the QM table is missing.
    """
    settings = settings or GoalSettings()
    contenders = [_contender_of(model, settings), *_baselines(folder, settings)]
    examples, n_unsupported = read_qm_examples(folder / DEV)
    make_folder(out)  # a table that is missing leaves none
    examples = spread_over_sources(examples, settings.points.max_rows)
    points = compare_examples(
        {contender.name: contender.single_points for contender in contenders},
        (examples, n_unsupported, folder / DEV),
        out,
        settings=settings.points,
        model=(("name", model.name), ("version", model.version), ("sha256", model.sha256)),
    )
    relaxed = [_relaxed_scores(contender, examples, folder, out, settings) for contender in contenders]
    common = relaxed_in_common(relaxed)
    rows = {row.row for row in common[0].rows} if common else set()
    own = next((method for method in common if method.method == contenders[0].name), None)
    uncertainty = error_against_uncertainty(model, examples, own, out / UNCERTAINTY_PLOT) if own else None
    published = read_published(folder / PUBLISHED, folder / DEV, examples)
    report = GoalReport(
        points=points,
        relaxed=tuple(summarise_relaxed(method) for method in common),
        published=tuple(summarise_relaxed(restrict_relaxed(method, rows)) for method in published),
        conformers=_conformer_summaries(contenders, folder, settings),
        left_out=tuple((method.method, len(method.left_out)) for method in relaxed),
        uncertainty=uncertainty,
        files=(*_write_relaxed(common, out), *([UNCERTAINTY_PLOT] if uncertainty else [])),
    )
    (out / "goals.json").write_text(report.to_json())
    return report


def _contender_of(model: Predictor, settings: GoalSettings) -> Contender:
    return Contender(
        name=f"{model.name} {model.version}",
        identity=model.sha256,
        single_points=class1_method(model.predict),
        relaxer=class1_relaxer(model.predict, settings.relax),
    )


def _baselines(folder: Path, settings: GoalSettings) -> list[Contender]:
    """The baselines asked for whose files are there."""
    unknown = set(settings.baselines) - {SAGE_NAME, MMFF94_NAME}
    if unknown:
        raise SettingsError(f"no baseline {sorted(unknown)[0]!r}; there are {SAGE_NAME!r}, {MMFF94_NAME!r}")
    contenders = []
    offxml, charges = folder / SAGE, folder / CHARGES
    if SAGE_NAME in settings.baselines and offxml.is_file() and charges.is_file():
        parametrise = smirnoff_parametrise(offxml, read_charge_table(charges))
        contenders.append(
            Contender(
                name=SAGE_NAME,
                identity=_sha256(offxml) + _sha256(charges),
                single_points=class1_method(parametrise),
                relaxer=class1_relaxer(parametrise, settings.relax),
            )
        )
    if MMFF94_NAME in settings.baselines:
        contenders.append(
            Contender(
                name=MMFF94_NAME, identity="rdkit", single_points=mmff94_method, relaxer=mmff94_relaxer()
            )
        )
    return contenders


def _relaxed_scores(
    contender: Contender, examples: Sequence[QMExample], folder: Path, out: Path, settings: GoalSettings
) -> RelaxedScores:
    identity = (
        contender.name,
        contender.identity,
        _sha256(folder / DEV),
        json.dumps(dataclasses.asdict(settings.relax), sort_keys=True),
        str(settings.points.max_rows),
    )
    return scores_or_compute(
        out, identity, lambda: evaluate_relaxed(examples, contender.relaxer, contender.name)
    )


def _conformer_summaries(
    contenders: Sequence[Contender], folder: Path, settings: GoalSettings
) -> tuple[ConformerSummary, ...]:
    if not (folder / CONFORMERS).is_file():
        return ()
    examples, _ = read_conformer_set(folder / CONFORMERS)
    examples = spread_over_sources(examples, settings.points.max_rows)
    scores: list[ConformerScores] = [
        evaluate_conformers(examples, contender.single_points, contender.name) for contender in contenders
    ]
    return summarise_conformers(scores)


def _write_relaxed(scores: Sequence[RelaxedScores], out: Path) -> tuple[str, ...]:
    """One line per conformer and method; the curves; the worst molecules of the first method."""
    rows: list[Mapping[str, object]] = [
        {
            "method": method.method,
            "row": row.row,
            "key": row.key,
            "conformer": conf,
            "is_reference": bool(row.is_reference[conf]),
            "qm_energy": row.qm_energy[conf],
            "dde": row.dde[conf],
            "rmsd": row.rmsd[conf],
            "tfd": row.tfd[conf],
            "converged": bool(row.converged[conf]),
        }
        for method in scores
        for row in method.rows
        for conf in range(len(row.dde))
    ]
    pd.DataFrame(rows).to_csv(out / "relaxed.csv", index=False, float_format="%.6g")
    files = ("relaxed.csv", *write_relaxed_plots(scores, out))
    worst = worst_molecules(scores[0]) if scores else []
    if not worst:
        return files
    draw_worst(worst, out / "worst.png")
    return (*files, "worst.png")


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise SettingsError(f"no training table {path}; see data/qm/README.md for how it is made")
    return hashlib.sha256(path.read_bytes()).hexdigest()
