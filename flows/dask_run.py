"""`assign` on several machines: Dask hands out shards of record numbers, the ledger is the truth.

Workers see the output folder (a shared file system) and the ledger (PostgreSQL; a SQLite file only where all
workers are on its own machine). A worker that dies takes nothing with it: Dask gives its shard to another,
which takes over its leases and does what is left.
"""

import contextlib
import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from flows.batch import (
    close_run,
    held,
    open_campaign,
    open_run,
    records_of,
)
from flows.request import Request
from pipeline.assign import assign
from pipeline.campaign import Silent, Watch, begin_work
from pipeline.errors import ParmflowError, SettingsError, UsageError

if TYPE_CHECKING:
    from distributed import Client

LARGEST_SHARD = 200
"""records; a dead worker's shard is begun again where it stood, so this is no loss, only a grain"""
_SHARDS_PER_WORKER = 4
_WINDOW = 2
"""shards submitted per worker; the others wait here, so that the scheduler's memory stays flat"""
_CONNECT_SECONDS = 30


def run_shard(request_json: str, numbers: list[int]) -> list[int]:
    """On a worker: parametrise those of the records that are undone; gives all numbers back."""
    request = Request.model_validate_json(request_json)
    with open_campaign(request, Silent(), owner=f"shard {numbers[0]}-{numbers[-1]}") as campaign:
        undone = set(campaign.ledger.numbers(status="undone"))
        assign(campaign, [number for number in numbers if number in undone])
    return numbers


def run_on_dask(request: Request, address: str, watch: Watch) -> dict[str, int]:
    """Run a request on the workers of a Dask scheduler, or go on with it; how many records ended how."""
    if request.command != "assign":
        raise SettingsError("--dask is for `assign`; `refine` shares its QM by a common --store instead")
    records = records_of(request.libraries)
    with (
        connected(address) as client,
        held(request.out, open_campaign(request, watch)) as campaign,
    ):
        open_run(campaign, request, records)
        undone = begin_work(campaign)
        campaign.watch.begin("assign", len(undone))
        for numbers in _done_by_workers(client, request, undone):
            for _ in numbers:
                campaign.watch.advance("assign")
        return close_run(campaign, request.settings)


def _done_by_workers(client: "Client", request: Request, undone: list[int]) -> Iterator[list[int]]:
    """Submit a bounded window of shards; give each when it is done."""
    from distributed import as_completed

    n_workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    size = min(LARGEST_SHARD, math.ceil(len(undone) / (_SHARDS_PER_WORKER * n_workers)) or 1)
    text = request.model_dump_json()
    waiting = (undone[start : start + size] for start in range(0, len(undone), size))
    first = [
        client.submit(run_shard, text, shard, pure=False) for shard in islice(waiting, _WINDOW * n_workers)
    ]
    running = as_completed(first)
    for future in running:
        try:
            yield future.result()
        except UsageError as error:  # a refusal by one worker's machine is none of the whole request
            raise ParmflowError(f"a Dask worker cannot do its part: {error}") from error
        for shard in islice(waiting, 1):
            running.add(client.submit(run_shard, text, shard, pure=False))


@contextlib.contextmanager
def connected(address: str) -> "Iterator[Client]":
    """A client of the scheduler; SettingsError where Dask is not installed or nobody answers."""
    try:
        from distributed import Client
    except ImportError as error:
        raise SettingsError("dask is not installed; pip install 'parmflow[dask]'") from error
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--dask {address}: no scheduler answers ({error})") from error
    with client:
        yield client
