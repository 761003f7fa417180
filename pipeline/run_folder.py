"""The output folder of a run, and where its ledger is.

By default the ledger is a file in the folder; else a schema of a PostgreSQL database, which it remembers.
"""

import hashlib
import json
import os
from pathlib import Path

from pipeline.database import Place
from pipeline.errors import OutputFolderError
from pipeline.ledger import Ledger
from pipeline.outcomes_table import write_json

STATE_FOLDER = ".parmflow"
PLACE_FILE = "ledger.json"
"""says where the ledger is, when that is not the file beside it"""


def check_folder(folder: Path) -> None:
    """Say whether a run can be kept in this folder, without making it: OutputFolderError when it cannot."""
    try:
        if folder.is_dir() and not (folder / STATE_FOLDER).is_dir() and any(folder.iterdir()):
            raise OutputFolderError(f"{folder} is not empty and holds no parmflow run; choose another folder")
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            reason = "may not be written" if there.is_dir() else "is no folder"
            raise OutputFolderError(f"{folder}: cannot be written ({there} {reason})")
    except OSError as error:
        raise OutputFolderError(f"{folder}: cannot be written ({error.strerror or error})") from error


def open_ledger(folder: Path, address: str = "") -> Ledger:
    """Open the ledger of an output folder, making both where there is none; `address`: in PostgreSQL.

    Raises OutputFolderError when the folder cannot be written, holds something else than a run, or a run
    whose ledger is elsewhere.
    """
    check_folder(folder)
    state = folder / STATE_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        state.mkdir(mode=0o700, exist_ok=True)
        place = Place(url=address, schema=_schema_of(folder)) if address else _file_in(folder)
        before = ledger_place(folder)
        if before not in (None, place):
            raise OutputFolderError(f"{folder}: its run has its ledger at {before}; give the same --ledger")
        ledger = Ledger(place)
        if address and before is None:
            write_json(state / PLACE_FILE, {"url": place.url, "schema": place.schema})
        return ledger
    except OSError as error:
        raise OutputFolderError(f"{folder}: cannot be written ({error.strerror or error})") from error


def ledger_place(folder: Path) -> Place | None:
    """Where the ledger of the run in a folder is; None where there is no run."""
    named = folder / STATE_FOLDER / PLACE_FILE
    if named.is_file():
        return Place(**json.loads(named.read_text(encoding="utf-8")))
    place = _file_in(folder)
    return place if Path(str(place)).is_file() else None


def _file_in(folder: Path) -> Place:
    return Place.of_file(folder / STATE_FOLDER / "ledger.sqlite")


def _schema_of(folder: Path) -> str:
    """A name that no other folder of any machine has."""
    return f"parmflow_{hashlib.sha256(f'{os.uname().nodename}:{folder.resolve()}'.encode()).hexdigest()[:16]}"
