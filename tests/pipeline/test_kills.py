"""kill -9 at random moments: a campaign ends as one that nobody disturbed; benchmarks/kills.py has 50."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from benchmarks.kills import contents, kill_often, run, write_library

SPAWN = multiprocessing.get_context("spawn")


def test_killed_at_random_moments_it_ends_as_if_never_killed(tmp_path):
    """Three kills in 24 ligands: every file and row equal, no record delivered twice.

    The rounds are forks of a fresh process: the test runner has threads, which do not survive a fork.
    """
    with ProcessPoolExecutor(1, mp_context=SPAWN) as fresh:
        verdict = fresh.submit(kill_often, tmp_path, n_ligands=24, n_kills=3, seed=1).result(timeout=240)
    assert verdict.n_different == 0
    assert verdict.n_repeated == 0
    assert list(verdict.n_at_kills) == sorted(verdict.n_at_kills)


def test_two_campaigns_at_once_do_not_touch_each_other(tmp_path):
    """Two processes on the same library in two folders, at the same time: both complete and equal."""
    library = tmp_path / "library.smi"
    write_library(library, 12)
    both = [SPAWN.Process(target=run, args=(library, tmp_path / name)) for name in ("a", "b")]
    for process in both:
        process.start()
    for process in both:
        process.join(240)
        assert process.exitcode == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
