"""The QM store: results that are never computed twice, and the history of computing them."""

from pipeline.store.attempts import SUBMITTED, Attempt, Timing
from pipeline.store.leases import Lease, Refused
from pipeline.store.qm_store import QMStore
from pipeline.store.rows import Composition, Entry, composition_of

__all__ = [
    "SUBMITTED",
    "Attempt",
    "Composition",
    "Entry",
    "Lease",
    "QMStore",
    "Refused",
    "Timing",
    "composition_of",
]
