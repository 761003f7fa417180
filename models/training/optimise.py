"""The training loop shared by all stages: seeded order, warm-up and cosine decay, checkpoints, resume."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.config import ScheduleConfig

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage of training optimises."""

    name: str
    model: nn.Module
    n_examples: int
    loss: Callable[[Sequence[int], np.random.Generator], Tensor]
    """indices of a mini-batch's examples and a seeded generator -> scalar loss"""
    score: Callable[[], dict[str, float]]
    """figures on held-out data; the first is the one that selects, smaller is better"""
    shares: np.ndarray | None = None
    """(n_examples,) chance of each to be seen in an epoch, drawn anew for every epoch; None: all are seen"""


def run_stage(stage: Stage, schedule: ScheduleConfig, *, seed: int, folder: Path, report: Report) -> None:
    """Train to the end of the schedule and leave the weights it keeps in the model.

    A checkpoint is written after every epoch; a run that finds one goes on from there with the same order of
    examples it would have seen undisturbed. A mini-batch whose loss or gradient is not finite changes
    nothing; the report counts such and takes the mean loss over the others.
    """
    optimiser = torch.optim.AdamW(
        stage.model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    state = _Progress(stage, optimiser, folder / stage.name, keep=schedule.keep)
    for epoch in range(state.epoch, schedule.epochs):
        started = time.monotonic()
        generator = np.random.default_rng([seed, epoch])
        torch.manual_seed(int(np.random.default_rng([seed, epoch, 1]).integers(2**62)))
        stage.model.train()
        losses = []
        batches = _batches(stage, schedule.batch_molecules, generator)
        for number, batch in enumerate(batches):
            _set_learning_rate(optimiser, schedule, epoch + number / len(batches))
            optimiser.zero_grad(set_to_none=True)
            loss = stage.loss(batch, generator)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(stage.model.parameters(), schedule.clip)
            if torch.isfinite(norm) and torch.isfinite(loss):
                optimiser.step()
                state.average(schedule.average)
                losses.append(loss.item())
        scores = state.finish_epoch(epoch, stage.score)
        figures = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        seconds = time.monotonic() - started
        epoch_of = f"{stage.name} {epoch + 1}/{schedule.epochs}"
        skipped = f"  {len(batches) - len(losses)} batches skipped" if len(losses) < len(batches) else ""
        mean_loss = sum(losses) / len(losses) if losses else math.nan
        report(f"{epoch_of}  loss {mean_loss:.4f}  {figures}  {seconds:.0f} s{skipped}")
    state.restore_best()


def is_trained(folder: Path, stage: str, schedule: ScheduleConfig) -> bool:
    """Whether the stage of that name has its last checkpoint in `folder`."""
    progress = folder / stage / "progress.json"
    return progress.exists() and int(json.loads(progress.read_text())["epoch"]) >= schedule.epochs


def _batches(stage: Stage, size: int, generator: np.random.Generator) -> list[list[int]]:
    order = generator.permutation(stage.n_examples)
    if stage.shares is not None and (stage.shares < 1.0).any():  # otherwise nothing is drawn for it
        order = order[generator.random(len(order)) < stage.shares[order]]
    return [order[start : start + size].tolist() for start in range(0, len(order), size)]


def _set_learning_rate(optimiser: torch.optim.Optimizer, schedule: ScheduleConfig, epoch: float) -> None:
    done = epoch / schedule.epochs
    if done < schedule.warmup_fraction:
        factor = (done + 1e-3) / schedule.warmup_fraction
    else:
        phase = (done - schedule.warmup_fraction) / (1.0 - schedule.warmup_fraction)
        factor = 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * phase))
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * min(factor, 1.0)


class _Progress:
    """Checkpoints of one stage: last, averaged and best weights, optimiser moments; safetensors and JSON."""

    def __init__(
        self, stage: Stage, optimiser: torch.optim.Optimizer, folder: Path, keep: Literal["best", "last"]
    ) -> None:
        self.model, self.optimiser, self.folder, self.keep = stage.model, optimiser, folder, keep
        self.epoch, self.best = 0, math.inf
        self.averaged = _copy(self.model)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "progress.json").exists():
            self._load()

    def _load(self) -> None:
        progress = json.loads((self.folder / "progress.json").read_text())
        self.epoch, self.best = progress["epoch"], progress["best"]
        self.model.load_state_dict(load_file(self._path("last")))
        device = device_of(self.model)
        self.averaged = {name: t.to(device) for name, t in load_file(self._path("average")).items()}
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in load_file(self._path("moments")).items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})

    def _path(self, kind: str) -> Path:
        return self.folder / f"{kind}-{self.epoch}.safetensors"

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Let the averaged weights follow the model's."""
        for name, weight in self.model.state_dict().items():
            self.averaged[name].lerp_(weight, 1.0 - decay)

    def finish_epoch(self, epoch: int, score: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Score the averaged weights and write the checkpoint; progress.json last, against kills."""
        last = _copy(self.model)
        self.model.load_state_dict(self.averaged)
        self.model.eval()
        scores = score()
        self.model.load_state_dict(last)
        merit = next(iter(scores.values()))
        if self.keep == "last" or merit < self.best:
            self.best = merit
            _replace(self.folder / "best.safetensors", self.averaged)
        stale = [self._path(kind) for kind in ("last", "average", "moments")]
        self.epoch = epoch + 1
        moments = {
            f"{index}.{key}": tensor.contiguous()
            for index, entry in self.optimiser.state_dict()["state"].items()
            for key, tensor in entry.items()
        }
        for kind, tensors in (("last", last), ("average", self.averaged), ("moments", moments)):
            _replace(self._path(kind), tensors)
        progress = self.folder / "progress.json.new"
        progress.write_text(json.dumps({"epoch": self.epoch, "best": self.best, "scores": scores}))
        progress.replace(self.folder / "progress.json")
        for path in stale:
            path.unlink(missing_ok=True)
        return scores

    def restore_best(self) -> None:
        """Put the weights that the schedule keeps into the model."""
        self.model.load_state_dict(load_file(self.folder / "best.safetensors"))
        self.model.eval()


def device_of(model: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(model.parameters()).device


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _replace(path: Path, tensors: dict[str, Tensor]) -> None:
    temporary = path.with_suffix(".new")
    save_file(tensors, temporary)
    temporary.replace(path)
