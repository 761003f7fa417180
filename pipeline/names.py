"""File names from ligand names: a readable slug and a hash, never the name itself."""

import hashlib
import json
import re
import unicodedata

_SLUG_LENGTH = 48
_HASH_LENGTH = 10


def record_id(name: str, content: str, occurrence: int) -> str:
    """Name a record for the file system: ASCII slug (at most 48 characters), `-`, 10 hex digits.

    The hash covers the name, the record's text and the occurrence (0 for the first, 1 for the second record
    with that name and text, ...), so ids differ, also on file systems that ignore case, whenever these do.
    """
    digest = hashlib.sha256(json.dumps([name, content, occurrence]).encode("ascii")).hexdigest()
    return f"{_slug(name)}-{digest[:_HASH_LENGTH]}"


def shard_of(record_id: str) -> str:
    """Folder of an id: two hex digits of its hash, 256 folders, so 100,000 records stay below 1,000 each."""
    return record_id[-_HASH_LENGTH:][:2]


def _slug(name: str) -> str:
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9_]+", "-", ascii_name).strip("-_")[:_SLUG_LENGTH].strip("-_") or "ligand"
