"""What the user asked for: a config file and options become checked settings and absolute paths."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.database import Place, check_address
from pipeline.errors import SettingsError
from pipeline.qm.remote import Login
from pipeline.settings import Settings, build_settings

STORE_FILE = "qm.sqlite"
"""of the QM store in its folder"""
STORE_SCHEMA = "qm_store"
"""of the QM store in a PostgreSQL database"""
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class Request(BaseModel):
    """One run, complete and serialisable: what Prefect carries and run.json keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Literal["assign", "refine"]
    libraries: tuple[Path, ...]
    out: Path
    store: str
    """folder of the QM store, or address of a PostgreSQL database"""
    ledger: str = ""
    """address of a PostgreSQL database; empty: a file in the output folder"""
    settings: Settings


def default_store() -> Path:
    """Folder of the user's QM store: $XDG_DATA_HOME/parmflow, else ~/.local/share/parmflow."""
    home = os.environ.get("XDG_DATA_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "share"
    return base / "parmflow"


def chosen_store(store: str | None, base: Path | None = None) -> str:
    """Folder or address of the QM store that was asked for, else the user's; folders below `base`.

    Raises SettingsError for an address that cannot serve.
    """
    if store is None:
        return str(default_store())
    return check_address(store) if _is_address(store) else str((base or Path.cwd()) / store)


def store_place(store: str) -> Place:
    """Where the QM store of a folder or an address is."""
    if _is_address(store):
        return Place(url=store, schema=STORE_SCHEMA)
    return Place.of_file(Path(store) / STORE_FILE)


def server_login() -> Login | None:
    """Who we are to a QCFractal server: qcportal's own environment variables; None without them."""
    user, password = os.environ.get("QCPORTAL_USERNAME"), os.environ.get("QCPORTAL_PASSWORD")
    return Login(user=user, password=password) if user and password else None


def _is_address(store: str) -> bool:
    return "://" in store


def settings_from(config: Path | None, options: dict[str, Any]) -> Settings:
    """Read the TOML file and lay the options given on the command line over it; dots mean nesting.

    Raises SettingsError for a file that cannot be read, an unknown key or a value out of range.
    """
    table = read_toml(config) if config else {}
    for name, value in options.items():
        if value is not None:
            _lay_over(table, name.split("."), value)
    settings = build_settings(table)
    return beside(config, settings) if config else settings


def beside(config: Path, settings: Settings) -> Settings:
    """The settings that a file holds, with the program of its notification command, where that is a path,
    taken from the file's folder.
    """
    program, *arguments = settings.notify.command or ("",)
    if "/" not in program:
        return settings
    command = (str(config.absolute().parent / program), *arguments)
    notify = settings.notify.model_copy(update={"command": command})
    return settings.model_copy(update={"notify": notify})


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; SettingsError says what is wrong with it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def _lay_over(table: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise SettingsError(f"settings: {key}: a table is expected")
    table[keys[-1]] = value


def parse_duration(text: str | None) -> float | None:
    """Seconds of `90s`, `30m`, `2h`, `1.5d` or a bare number of seconds; SettingsError otherwise."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in {"", *_SECONDS}:
        raise SettingsError(f"{text!r} is not a duration; write e.g. 90s, 30m or 2h")
    return float(match[1]) * _SECONDS.get(match[2], 1.0)


def split_formats(text: str | None) -> tuple[str, ...] | None:
    """The names in `offxml,amber`, once each, in the order given; SettingsError when it names none."""
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise SettingsError("--formats names no format; write e.g. offxml,amber, or leave it out for all")
    return names
