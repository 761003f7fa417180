"""The library's own OFFXML: made from what was delivered, proved on every ligand, written in one piece."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.campaign import LIBRARY_FILE, Campaign
from pipeline.errors import ChildError, DiskError, LigandError
from pipeline.export.library_offxml import write_library_offxml
from pipeline.export.parameters_json import read_parametrized_json
from pipeline.outcomes_table import write_atomically
from pipeline.process.child import Isolate, Limits
from pipeline.readback.files import compare_parameters
from pipeline.settings import ExportSettings
from pipeline.smirnoff import label, read_smirnoff

_SECONDS, _SECONDS_PER_LIGAND = 60.0, 3.0
_MEMORY_MB, _MEMORY_MB_PER_LIGAND = 4096, 50
"""369 ligands of 47 atoms take some 2,000 MB, most of it for compiled patterns."""


def write_library(campaign: Campaign, export: ExportSettings, isolate: Isolate) -> None:
    """Write library.offxml where it is wanted and not there yet; the watch is told what came of it.

    It is not written for more ligands than `export.library_offxml_limit`, nor where SMARTS cannot tell two
    ligands apart: each has its own OFFXML. Raises DiskError about the disk.
    """
    path = campaign.folder / LIBRARY_FILE
    n_delivered = campaign.ledger.n_outcomes(status="ok")
    few = n_delivered <= export.library_offxml_limit
    folders = [outcome.folder for outcome in campaign.ledger.outcomes(status="ok")] if few else []
    state = json.dumps([folders, export.constraints])
    if "offxml" not in export.formats or not n_delivered:
        path.unlink(missing_ok=True)
    elif not few:
        path.unlink(missing_ok=True)
        campaign.watch.say(
            f"No {LIBRARY_FILE} for {n_delivered} ligands: with 60 kB for each it takes readers minutes and "
            "gigabytes. Each ligand has its own ligand.offxml; raise export.library_offxml_limit, now "
            f"{export.library_offxml_limit}, for one file of all, up to 100 MB."
        )
    elif not path.is_file() or campaign.ledger.recall(LIBRARY_FILE) != state:
        path.unlink(missing_ok=True)
        limits = Limits(
            wall_seconds=_SECONDS + _SECONDS_PER_LIGAND * len(folders),
            memory_mb=_MEMORY_MB + _MEMORY_MB_PER_LIGAND * len(folders),
        )
        campaign.watch.begin(LIBRARY_FILE, 1)
        try:
            isolate(deliver_library, campaign.folder, folders, export.constraints, limits=limits)
            campaign.ledger.remember(LIBRARY_FILE, state)
        except (LigandError, ChildError) as error:
            campaign.watch.say(f"No {LIBRARY_FILE}: {error}")
        campaign.watch.advance(LIBRARY_FILE)


def deliver_library(run: Path, folders: Sequence[str], constraints: bool) -> None:
    """Make the file from the parameters.json of these folders, and label every ligand with it.

    Raises ExportError for two ligands that SMARTS cannot tell apart, VerificationError where a ligand gets
    another's parameters, DiskError about the disk.
    """
    path = run / LIBRARY_FILE
    try:
        parametrized = [
            read_parametrized_json((run / folder / "parameters.json").read_text(encoding="utf-8"))
            for folder in folders
        ]
        text = write_library_offxml(parametrized, constraints=constraints)
        force_field = read_smirnoff(text)
        for one in parametrized:
            labelled = label(force_field, one.ligand, one.topology)
            compare_parameters(f"{LIBRARY_FILE}: {one.ligand.name}", labelled, one.parameters)
        write_atomically(path, text.encode())
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror or error}") from error
