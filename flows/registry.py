"""Retrained models side by side, and which of them is in use: promoted, and taken back, by one command.

registry/<name>-<version>-<hash>/    weights, as `models.weights` keeps them
registry/promotions.jsonl            every promotion and roll back, the last one holds
"""

import datetime
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from models.weights import load_model_folder
from pipeline.errors import SettingsError

_LOG = "promotions.jsonl"


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One change of the model in use."""

    model: str
    """its folder's name; empty: the shipped default"""
    why: str
    at: str
    """UTC, ISO 8601"""


def add(registry: Path, weights: Path) -> str:
    """Keep a copy of a folder of weights, checked against its hashes; its name in the registry."""
    model = load_model_folder(weights)
    name = f"{model.name}-{model.version}-{model.sha256[:8]}"
    target = registry / name
    if not target.exists():
        part = registry / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(weights, part)
        part.rename(target)
    return name


def names(registry: Path) -> list[str]:
    """The models that are kept."""
    return sorted(path.parent.name for path in registry.glob("*/manifest.json") if path.parent.name[0] != ".")


def history(registry: Path) -> list[Promotion]:
    """All promotions, oldest first."""
    log = registry / _LOG
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return [Promotion(**json.loads(line)) for line in lines]


def current(registry: Path) -> Path | None:
    """Folder of the model in use; None: the shipped default."""
    last = history(registry)[-1:]
    return registry / last[0].model if last and last[0].model else None


def promote(registry: Path, name: str, why: str) -> None:
    """Take a model into use; SettingsError when the registry does not have it, or its files are damaged."""
    if name and name not in names(registry):
        raise SettingsError(
            f"{registry}: no model {name!r}; there are: {', '.join(names(registry)) or 'none'}"
        )
    if name:
        load_model_folder(registry / name)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with (registry / _LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(asdict(Promotion(model=name, why=why, at=now))) + "\n")


def roll_back(registry: Path) -> str:
    """Go back to the model that was in use before the present one; its name, empty for the shipped default.

    Rolling back again goes one further back. Raises SettingsError when there is nothing to go back from.
    """
    line = _line_of_use(registry)
    if not line:
        raise SettingsError(f"{registry}: the shipped default is in use; there is nothing to roll back")
    before = line[-2] if len(line) > 1 else ""
    promote(registry, before, why=_ROLLED_BACK)
    return before


_ROLLED_BACK = "rolled back"


def _line_of_use(registry: Path) -> list[str]:
    """The promoted models without those that were rolled back, the one in use last."""
    line: list[str] = []
    for promotion in history(registry):
        if promotion.why == _ROLLED_BACK:
            line.pop()
        else:
            line.append(promotion.model)
    return line
