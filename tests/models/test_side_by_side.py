"""Work shared by processes: each piece once, whoever dies."""

import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from models.training.side_by_side import claimed, sent_back, side_by_side

FORK = multiprocessing.get_context("fork")


def test_each_piece_is_done_once_and_results_are_in_order(tmp_path):
    """Five pieces by three processes: every folder's work was begun once, and results are in order."""
    folders = [tmp_path / str(number) for number in range(5)]

    def work(number):
        made = folders[number] / "made"
        if not made.exists():
            with (folders[number] / "begun").open("a") as file:
                file.write("x")
            made.write_text(str(number**2))
        return int(made.read_text())

    assert side_by_side(work, folders, processes=3) == [0, 1, 4, 9, 16]
    assert [(folder / "begun").read_text() for folder in folders] == ["x"] * 5


def test_what_a_killed_process_held_is_free(tmp_path):
    """The lock of a process that was killed does not outlive it."""
    held, end = FORK.Event(), FORK.Event()

    def hold():
        with claimed(tmp_path / "piece", wait=True):
            held.set()
            end.wait()

    holder = FORK.Process(target=hold)
    holder.start()
    assert held.wait(60)
    with claimed(tmp_path / "piece", wait=False) as is_ours:
        assert not is_ours
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with claimed(tmp_path / "piece", wait=False) as is_ours:
        assert is_ours


@pytest.mark.parametrize("processes", [1, 3])
def test_results_are_sent_back_in_order(processes):
    """More pieces than are sent together, tensors in them; several processes made them, none of them us."""
    results = sent_back(lambda number: (os.getpid(), torch.full((2,), number)), 120, processes)
    assert [int(value[1]) for _, value in results] == list(range(120))
    makers = {pid for pid, _ in results}
    assert makers == {os.getpid()} if processes == 1 else os.getpid() not in makers


def test_what_fails_in_another_process_fails_here():
    """An error comes back as itself; a process that is killed is told, not waited for."""

    def refuse(number):
        if number == 77:
            raise ValueError("no 77")

    with pytest.raises(ValueError, match="no 77"):
        sent_back(refuse, 120, 2)
    with pytest.raises(BrokenProcessPool):
        sent_back(lambda _: os.kill(os.getpid(), signal.SIGKILL), 120, 2)
