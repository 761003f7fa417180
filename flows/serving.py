"""Carry out the scheduled runs of deployments until told to stop, and then end whatever is in work.

Prefect's own runner waits for the flow run in work when it gets a SIGTERM: for hours where that computes QM.
A run of ours may be killed at any time and is resumed, so we do not wait.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import psutil
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner

GRACE_SECONDS = 10.0
"""for the flow runs in work to report that they were stopped"""


class StoppingRunner(Runner):
    """A runner that ends on SIGTERM and SIGINT, within seconds and with everything it started."""

    def handle_sigterm(self, *_args: Any, **_kwargs: Any) -> None:
        """End the flow runs in work, then this process, without asking the server for anything."""
        print("parmflow: stopping; what was in work goes on at the next run", file=sys.stderr, flush=True)
        end_children(GRACE_SECONDS)
        os._exit(0)


def end_children(grace_seconds: float) -> None:
    """Ask the child processes to end; kill those that have not after the grace, with all below them."""
    children = psutil.Process().children()
    below = psutil.Process().children(recursive=True)
    for child in children:
        _signal(child, signal.SIGTERM)
    psutil.wait_procs(children, timeout=grace_seconds)
    for process in below:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(below, timeout=grace_seconds)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # a stranger with the same number since counts as such
        process.send_signal(number)


def serve(deployments: Sequence[RunnerDeployment], *, limit: int) -> None:
    """Register the deployments and carry out their runs, so many at a time, until SIGTERM or SIGINT."""
    runner = StoppingRunner(limit=limit, pause_on_shutdown=False)
    for deployment in deployments:
        runner.add_deployment(deployment)
    signal.signal(signal.SIGINT, runner.handle_sigterm)  # Prefect sets it for SIGTERM itself
    asyncio.run(runner.start())
