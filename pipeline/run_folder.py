"""The output folder of a run, and where its ledger is.

By default the ledger is a file in the folder. In PostgreSQL it is a schema whose name no other run has; the
folder remembers it, so that a run goes on from every machine that sees the folder, under whatever path.
"""

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path

from pipeline.database import Place
from pipeline.errors import OutputFolderError, StoreError
from pipeline.ledger import Ledger
from pipeline.outcomes_table import write_json

STATE_FOLDER = ".parmflow"
PLACE_FILE = "ledger.json"
"""says where the ledger is, when that is not the file beside it"""
_HOME = "folder"
"""fact in a ledger in PostgreSQL: where its folder was when it was opened last"""


def check_folder(folder: Path) -> None:
    """Say whether a run can be kept in this folder, without making it: OutputFolderError when it cannot."""
    try:
        has_entries = folder.is_dir() and any(folder.iterdir())
        if has_entries and not (folder / STATE_FOLDER).is_dir():  # asked last: a run makes it first
            raise OutputFolderError(f"{folder} is not empty and holds no parmflow run; choose another folder")
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            reason = "may not be written" if there.is_dir() else "is no folder"
            raise OutputFolderError(f"{folder}: cannot be written ({there} {reason})")
    except OSError as error:
        raise OutputFolderError(f"{folder}: cannot be written ({error.strerror or error})") from error


def open_ledger(folder: Path, address: str = "") -> Ledger:
    """Open the ledger of an output folder, making both where there is none; `address`: in PostgreSQL.

    Raises OutputFolderError when the folder cannot be written, holds something else than a run, a copy of
    another's, or a run whose ledger is elsewhere or gone.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STATE_FOLDER).mkdir(mode=0o700, exist_ok=True)
        place = ledger_place(folder)
        if place is not None:
            return _known_ledger(folder, place, address)
        return _new_ledger(folder, address) if address else Ledger(_file_in(folder))
    except OSError as error:
        raise OutputFolderError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _known_ledger(folder: Path, place: Place, address: str) -> Ledger:
    if place.url != (address or _file_in(folder).url):
        advice = "leave --ledger out" if place.is_sqlite else f"give --ledger {place.url}"
        raise OutputFolderError(f"{folder}: the ledger of its run is {place}; {advice}")
    if not place.is_sqlite:
        _check_home(folder, place)
    return Ledger(place)


def _check_home(folder: Path, place: Place) -> None:
    """Refuse a copy of a folder that is still there: both would write into one ledger."""
    with contextlib.closing(Ledger(place, read_only=True)) as ledger:  # one that is gone is not made anew
        home = Path(ledger.recall(_HOME, str(folder.absolute())))
    if home.exists() and not home.samefile(folder) and ledger_place(home) == place:
        raise OutputFolderError(f"{folder} is a copy of {home}, whose ledger is {place}; go on there")
    if home != folder.absolute():
        with contextlib.closing(Ledger(place)) as ledger:
            ledger.remember(_HOME, str(folder.absolute()))


def _new_ledger(folder: Path, address: str) -> Ledger:
    """A ledger in PostgreSQL for a folder that has none; of two that are made at once the first is taken."""
    place = Place(url=address, schema=f"parmflow_{uuid.uuid4().hex[:16]}")
    ledger = Ledger(place)
    ledger.remember(_HOME, str(folder.absolute()))
    named = folder / STATE_FOLDER / PLACE_FILE
    written = named.with_name(f"{place.schema}.json")
    write_json(written, {"url": place.url, "schema": place.schema})
    try:
        os.link(written, named)
    except FileExistsError:
        ledger.remove()
        return open_ledger(folder, address)
    finally:
        written.unlink()
    return ledger


def ledger_place(folder: Path) -> Place | None:
    """Where the ledger of the run in a folder is; None where there is no run."""
    named = folder / STATE_FOLDER / PLACE_FILE
    if named.is_file():
        return Place(**json.loads(named.read_text(encoding="utf-8")))
    place = _file_in(folder)
    return place if Path(str(place)).is_file() else None


def discard(folder: Path) -> None:
    """Remove a folder and its run, also a ledger in PostgreSQL; what cannot be removed stays."""
    with contextlib.suppress(OutputFolderError, StoreError):
        place = ledger_place(folder)
        if place is not None and not place.is_sqlite:
            Ledger(place).remove()
    shutil.rmtree(folder, ignore_errors=True)


def _file_in(folder: Path) -> Place:
    return Place.of_file(folder / STATE_FOLDER / "ledger.sqlite")
