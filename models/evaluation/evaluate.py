"""Score a model beside its baselines: on one QM table, or on a data folder with the whole table of goals."""

from collections.abc import Mapping
from pathlib import Path

from models.evaluation.baselines import mmff94_method
from models.evaluation.goals import GoalReport, GoalSettings, evaluate_goals
from models.evaluation.points import EvaluationReport, compare
from models.evaluation.scoring import EvaluationSettings, Method, class1_method, evaluate_torsions
from pipeline.parametrize import Predictor

__all__ = [
    "EvaluationReport",
    "EvaluationSettings",
    "GoalReport",
    "GoalSettings",
    "compare",
    "evaluate",
    "evaluate_goals",
    "evaluate_torsions",
]

MMFF94_ONLY: Mapping[str, Method] = {"MMFF94": mmff94_method}


def evaluate(
    model: Predictor,
    data: Path,
    out: Path,
    *,
    settings: EvaluationSettings | None = None,
    baselines: Mapping[str, Method] = MMFF94_ONLY,
) -> EvaluationReport | GoalReport:
    """Score a model on a QM table, or with every baseline that a data folder has files for, on that folder.

    A table: single points only; writes evaluation.json, rows.csv, parity.png, errors.png, torsions.png below
    `out`. A folder (data/qm/README.md): these on qm/dev.parquet, then relaxed geometries and conformer
    energies; see `goals.evaluate_goals`. `baselines` are those of a table. Raises SettingsError when
    the table is missing, OutputFolderError when `out` cannot be written.
    """
    settings = settings or EvaluationSettings()
    if data.is_dir():
        return evaluate_goals(model, data, out, GoalSettings(points=settings))
    identity = (("name", model.name), ("version", model.version), ("sha256", model.sha256))
    methods = {f"{model.name} {model.version}": class1_method(model.predict), **baselines}
    return compare(methods, data, out, settings=settings, model=identity)
