"""Stage 1: partial charges on AM1-BCC labels, then frozen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.charges import ChargeEnsemble, ChargeNetwork
from models.config import ChargeStage
from models.dataset import ChargeExample, chunks, read_charge_examples
from models.graph import collate_graphs
from models.training.optimise import Report, Stage, run_stage
from models.training.side_by_side import side_by_side

CHARGE_TABLE = Path("charges") / "am1bcc.parquet"
CHARGE_SCALE = 0.02
"""elementary charges: the error that counts as one"""


def train_charges(
    config: ChargeStage, data: Path, folder: Path, *, seed: int, report: Report
) -> ChargeEnsemble:
    """Train the charge networks side by side and return them with their best weights."""
    table = data / CHARGE_TABLE
    examples, left_out = read_charge_examples(table, "train", limit=config.max_molecules)
    held_out, _ = read_charge_examples(table, "dev")
    report(f"charges: {len(examples)} molecules ({left_out} left out), {len(held_out)} held out")
    folders = [folder / f"charges-{number}" for number in range(config.members)]

    def train_one(number: int) -> ChargeNetwork:
        torch.manual_seed(seed + 1000 * number)
        size = config.network
        model = ChargeNetwork(size.width, size.n_layers, size.dropout, pi=size.pi)

        def loss(batch: Sequence[int], generator: np.random.Generator) -> Tensor:  # noqa: ARG001 - none drawn
            return charge_loss(model, [examples[index] for index in batch])

        stage = Stage(
            name="charges",
            model=model,
            n_examples=len(examples),
            loss=loss,
            score=lambda: score_charges(model, held_out),
        )
        run_stage(
            stage,
            config.schedule,
            seed=seed + 1000 * number,
            folder=folders[number],
            report=lambda text: report(f"member {number}: {text}"),
        )
        return model

    mean = ChargeEnsemble(side_by_side(train_one, folders, config.processes))
    figures = "  ".join(f"{name} {value:.4f}" for name, value in score_charges(mean, held_out).items())
    report(f"charges, mean of {mean.n_members}: {figures}")
    return mean


def charge_loss(model: ChargeNetwork, examples: Sequence[ChargeExample]) -> Tensor:
    """Mean over molecules of the mean squared scaled error (every molecule weighs the same)."""
    batch = collate_graphs([example.graph for example in examples])
    reference = torch.as_tensor(np.concatenate([example.charges for example in examples])).float()
    squared = ((model(batch) - reference) / CHARGE_SCALE).square()
    counts = torch.bincount(batch.atom_molecule).to(squared.dtype)
    return (squared / counts.index_select(0, batch.atom_molecule)).sum() / len(examples)


@torch.no_grad()
def score_charges(
    model: ChargeNetwork | ChargeEnsemble, examples: Sequence[ChargeExample]
) -> dict[str, float]:
    """RMSE per atom over all atoms, and the share of molecules above 0.1 e RMSE."""
    squared_sum, n_atoms, per_molecule = 0.0, 0, []
    for part in chunks(examples, 128):
        predicted = model(collate_graphs([example.graph for example in part]))
        sizes = [len(example.charges) for example in part]
        for example, charges in zip(part, predicted.split(sizes), strict=True):
            squared = (charges.double().numpy() - example.charges) ** 2
            squared_sum += float(squared.sum())
            n_atoms += len(squared)
            per_molecule.append(float(np.sqrt(squared.mean())))
    return {
        "rmse_e": (squared_sum / n_atoms) ** 0.5,
        "above_0.1_e": float(np.mean(np.array(per_molecule) > 0.1)),
    }
