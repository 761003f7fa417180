"""Symmetries of every exporter: the atoms' order and the ligand's place in space change only labels."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.deliver import FILES
from pipeline.schema import Parametrized
from pipeline.verify import EnergyCheck, build_reference

few = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
"""each example writes and reads every format"""


@pytest.fixture(scope="module", params=["C[N+](=O)[O-]", "FC(Cl)=C(Br)C1CC1"])
def original(request, build_ligand, parametrize_ligand) -> Parametrized:
    return parametrize_ligand(build_ligand(request.param))


@pytest.fixture(scope="module")
def expected(original, tmp_path_factory) -> list[EnergyCheck]:
    return read_all(original, tmp_path_factory.mktemp("original"))


def read_all(parametrized: Parametrized, folder: Path) -> list[EnergyCheck]:
    """Write every file, read each back; format by format, since some are read with their neighbours."""
    reference = build_reference(parametrized)
    checks = []
    for form in dict.fromkeys(kind.format for kind in FILES):
        kinds = [kind for kind in FILES if kind.format == form]
        for kind in kinds:
            (folder / kind.name).write_text(kind.write(parametrized), encoding="utf-8")
        for kind in kinds:
            checks += kind.check(folder / kind.name, reference) if kind.check else []
    return [check for check in checks if isinstance(check, EnergyCheck)]


def assert_same_energies(one: list[EnergyCheck], other: list[EnergyCheck]) -> None:
    """At the delivered geometry, to the digits that the shortest format prints (nine, of large terms)."""
    for ours, theirs in zip(one, other, strict=True):
        assert (ours.file, ours.reader) == (theirs.file, theirs.reader)
        energies = dataclasses.astuple(theirs.reports[0])
        assert dataclasses.astuple(ours.reports[0]) == pytest.approx(energies, rel=1e-6, abs=1e-5)


@few
@given(seed=st.integers(0, 2**32 - 1))
def test_permuted_atoms_permute_every_file(
    seed, original, expected, build_ligand, parametrize_ligand, tmp_path
):
    """Any order of the input's atoms: each file is right for that order and holds the same energies."""
    order = np.random.default_rng(seed).permutation(original.topology.n_atoms)
    permuted = parametrize_ligand(build_ligand(original.ligand.name, order), original.coords[order])
    assert_same_energies(read_all(permuted, tmp_path), expected)


@few
@given(
    angles=st.tuples(*[st.floats(-3.2, 3.2)] * 3),
    shift=st.tuples(*[st.floats(-300.0, 300.0)] * 3),
)
def test_a_rigid_motion_changes_no_energy(angles, shift, original, expected, tmp_path):
    """A ligand turned and moved, up to the size of a large protein's box, keeps every term in every file."""
    turn = Rotation.from_euler("xyz", angles).as_matrix()
    moved = dataclasses.replace(original, coords=original.coords @ turn.T + np.array(shift))
    assert_same_energies(read_all(moved, tmp_path), expected)
