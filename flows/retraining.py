"""Train on the tables as they are now, and promote the result only if it beats the model in use."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows import registry
from flows.batch import predictor_of
from models import train as training
from models.config import read_config
from models.evaluation.points import EvaluationReport, compare
from models.evaluation.scoring import class1_method
from models.weights import load_model
from pipeline.qm.surface import Gfn2Surface
from pipeline.settings import Form

CANDIDATE, IN_USE = "candidate", "in use"

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """What came of it."""

    name: str
    """in the registry"""
    error: float
    """kcal/mol, mean energy RMSE over the evaluation rows that both models score"""
    error_in_use: float
    promoted: bool


def retrain(config: Path, data: Path, evaluation: Path, models: Path, say: Say) -> Retrained:
    """Train into the registry's own folder, score beside the model in use, and promote what is better.

    Both models are kept. Where neither the tables nor the weights gone on from changed since, nothing is
    trained again: training resumes, and ends at once. Raises SettingsError for a configuration or a table
    that cannot be used.
    """
    out = models / ".training" / _digest(config, data)
    model = training.train(config, data, out, cheap=Gfn2Surface, report=say)
    name = registry.add(models, out / model.name / model.version)
    return judge(name, evaluation, models, say)


def judge(name: str, evaluation: Path, models: Path, say: Say, form: Form = "class1") -> Retrained:
    """Score a model of the registry beside the one in use, and promote it if it is better."""
    in_use = registry.current(models)
    candidate, present = (predictor_of(str(path), form) for path in (models / name, in_use or "default"))
    methods = {CANDIDATE: class1_method(candidate.predict), IN_USE: class1_method(present.predict)}
    report = compare(methods, evaluation, models / ".evaluation" / name)
    error, error_in_use = (mean_error(report, method) for method in (CANDIDATE, IN_USE))
    same = candidate.sha256 == present.sha256
    verdict = Retrained(
        name=name, error=error, error_in_use=error_in_use, promoted=error < error_in_use and not same
    )
    if verdict.promoted:
        why = f"{error:.4f} against {error_in_use:.4f} kcal/mol on {evaluation.name}"
        registry.promote(models, name, why=why)
    say(
        f"{name}: {error:.4f} kcal/mol, the model in use {error_in_use:.4f}: "
        + ("promoted" if verdict.promoted else "kept, not promoted")
    )
    return verdict


def mean_error(report: EvaluationReport, method: str) -> float:
    """Mean energy RMSE over all rows that both score, kcal/mol."""
    rows = [s for s in report.summaries if s.scope == "common" and s.method == method]
    return sum(s.mean * s.n_rows for s in rows) / sum(s.n_rows for s in rows)


def _digest(config: Path, data: Path) -> str:
    """Of the configuration, of names, sizes and times of the tables, and of the weights gone on from."""
    tables = sorted(path for path in data.rglob("*") if path.is_file())
    facts = [[str(path.relative_to(data)), path.stat().st_size, path.stat().st_mtime_ns] for path in tables]
    start = read_config(config).start
    begun = [] if start is None else [load_model(start).sha256]
    text = json.dumps([config.read_text(encoding="utf-8"), facts, *begun])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
