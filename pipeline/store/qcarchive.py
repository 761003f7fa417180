"""DOOR: a data set of a QCArchive server, through qcportal where it is installed."""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from pipeline.errors import StoreError, UsageError
from pipeline.store.qcschema import read_records
from pipeline.store.rows import Entry

SERVER = "https://api.qcarchive.molssi.org"
KINDS = ("singlepoint", "optimization", "torsiondrive")


def open_client(server: str = SERVER) -> Any:
    """Connect to a server; UsageError when qcportal is missing, StoreError when nobody answers."""
    if find_spec("qcportal") is None:
        raise UsageError(
            "qcportal is not installed: where it is, write the records as JSON, one per line, and import "
            "that file; or `pip install 'qcportal<0.66'`"
        )
    portal = import_module("qcportal")
    try:
        return portal.PortalClient(server)
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
        raise StoreError(f"{server} does not answer: {error}", kind="import", retryable=True) from error


def dataset_named(text: str) -> tuple[str, str]:
    """Kind and name of a data set given as KIND:NAME; UsageError for another kind, or no name."""
    kind, _, name = text.partition(":")
    if kind not in KINDS or not name:
        raise UsageError(f"{text!r} is no KIND:NAME of a data set, where KIND is {', '.join(KINDS)}")
    return kind, name


def read_dataset(client: Any, kind: str, name: str) -> Iterator[Entry | str]:
    """Give the results of a data set's finished records; of one that cannot be used, a sentence."""
    dataset = client.get_dataset(kind, name)
    yield from read_records(dataset.iterate_records(status="complete", include=["**"]))
