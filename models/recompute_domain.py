"""Look again at what finished weights know: `python -m models.recompute_domain FOLDER DATA`.

Writes domain.json and the manifest of a folder of weights anew, from the tables below DATA; networks stay.
"""

import sys
from dataclasses import replace
from pathlib import Path

from models.train import domain_of
from models.weights import Model, load_model_folder, save_model


def recompute_domain(folder: Path, data: Path) -> Model:
    """The weights in the folder with today's rules about their domain; SettingsError as for training."""
    model = load_model_folder(folder, with_domain=False)
    return save_model(replace(model, domain=domain_of(model, data)), folder)


if __name__ == "__main__":
    recompute_domain(*map(Path, sys.argv[1:]))
