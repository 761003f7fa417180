"""What a second run in a folder keeps of the first: what the change does not touch."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.campaign import Campaign
from pipeline.ledger import STAGES, Ledger
from pipeline.library import Record
from pipeline.names import record_id

_TOUCHES = {
    "command": "predict",
    "model": "predict",
    "settings.form": "predict",
    "settings.conformers": "conformers",
    "settings.qm": "qm",
    "settings.fragments": "qm",
    "settings.fine_tune": "fine-tune",
    "settings.export": "deliver",
}
"""the first stage whose results depend on a part of the identity; all else decides from standardising on"""


def compare_identity(campaign: Campaign, identity: dict[str, Any]) -> None:
    """Drop what an earlier run in this folder computed under other conditions, and say what and why.

    `identity` is all that decides results besides the library: command, settings, model, programs. What comes
    before the first stage that a difference touches is kept.
    """
    ledger = campaign.ledger
    before = json.loads(ledger.recall("identity", "null"))
    now = _as_kept(identity)
    if before is not None and before != now:
        differences = _differences(before, now)
        touched = {_stage_touched_by(name) for name, _ in differences}
        n_dropped, folders = ledger.forget_from(touched)
        first = min(touched, key=STAGES.index)
        campaign.watch.say(
            f"{campaign.folder} holds a run that differs in {'; '.join(how for _, how in differences)}. "
            f"{n_dropped} of {ledger.n_records()} records are computed anew from the stage `{first}` on; "
            "what comes before it is kept, and so are QM results, in the store."
        )
        _remove_ligand_folders(campaign, folders)
    ledger.remember("identity", json.dumps(now, sort_keys=True))


def _as_kept(identity: dict[str, Any]) -> dict[str, Any]:
    """As it comes out of the ledger: with lists for tuples."""
    kept: dict[str, Any] = json.loads(json.dumps(identity))
    return kept


def _stage_touched_by(name: str) -> str:
    return next(
        (stage for part, stage in _TOUCHES.items() if f"{name}.".startswith(f"{part}.")), "standardise"
    )


def would_change(ledger: Ledger, identity: dict[str, Any], records: Iterable[Record]) -> bool:
    """Whether a run of these conditions and records would touch the delivered ligands or their tables."""
    delivered = {outcome.id for outcome in ledger.outcomes(status="ok")}
    if not delivered:
        return False
    before = json.loads(ledger.recall("identity", "null"))
    ids = {id_ for id_, _ in _identified(records)}
    return before != _as_kept(identity) or len(ids) != ledger.n_records() or not delivered <= ids


def take_in(campaign: Campaign, records: Iterable[Record]) -> None:
    """Make these records the run's library; what is gone from it goes from the folder."""
    ledger = campaign.ledger
    n_before = ledger.n_records()
    n_new, n_gone, folders = ledger.take_in(_identified(records))
    if n_before and (n_new or n_gone):
        campaign.watch.say(
            f"The library is not that of the run in {campaign.folder}: {n_new} records new, {n_gone} gone, "
            f"and with these {len(folders)} delivered ligands."
        )
    _remove_ligand_folders(campaign, folders)


def _differences(before: object, now: object, where: str = "") -> list[tuple[str, str]]:
    """The dotted names of what differs between two nested tables, each with a text that has both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if before == now else [(where, f"{where} ({before} -> {now})")]


def _identified(records: Iterable[Record]) -> Iterator[tuple[str, Record]]:
    """Give every record its id; the same text under the same name twice is told apart by its occurrence."""
    seen: dict[bytes, int] = {}  # by hash: the texts of a large library need not be in memory
    for record in records:
        content = f"{record.form}\n{record.text}\n{record.problem}"
        digest = hashlib.blake2b(json.dumps([record.name, content]).encode(), digest_size=16).digest()
        occurrence = seen.get(digest, 0)
        seen[digest] = occurrence + 1
        yield record_id(record.name, content, occurrence), record


def _remove_ligand_folders(campaign: Campaign, folders: Iterable[str]) -> None:
    for folder in folders:
        shutil.rmtree(campaign.folder / folder, ignore_errors=True)
