"""A program's complaint becomes the right kind of error."""

import pytest

from pipeline.errors import ChildError
from pipeline.qm.faults import error_from_child, error_from_text

# As psi4 1.3.2 and 1.4+, tblite, numpy and the C++ library say it.
COMPLAINTS = [
    (
        "exceptions.SCFConvergenceError: Could not converge SCF iterations in 1 iterations.",
        "scf",
    ),
    ("SCF not converged in 250 cycles", "scf"),
    ("PSIO Error\nunable to write: No space left on device", "disk"),
    ("PSIO_ERROR: 12 (error writing to file)", "disk"),
    ("terminate called after throwing an instance of 'std::bad_alloc'", "memory"),
    ("numpy.core._exceptions.MemoryError: Unable to allocate 3.2 GiB", "memory"),
    ("ImportError: libgfortran.so: failed to map segment from shared object", "memory"),
    ("psi4.driver.qcdb.exceptions.BasisSetNotFound: Unable to find a basis set for atom 1", "input"),
    ("TypeError: set_global_option(): incompatible function arguments", "input"),
    ("psi4.driver.p4util.exceptions.ValidationError: Method=b3lip is not available.", "input"),
    ("Unknown error, error message is not found, possible segmentation fault!", "crash"),
    ("TimeoutExpired: Command '['/usr/bin/psi4', '--version']' timed out after 30 seconds", "lost"),
    ("Something nobody has seen before", "engine"),
]


@pytest.mark.parametrize(("text", "kind"), COMPLAINTS)
def test_texts_are_classified(text: str, kind: str) -> None:
    """Each known complaint has its kind, and the message keeps the program's own words."""
    error = error_from_text(text, who="water: psi4")
    assert error.kind == kind
    assert str(error).startswith("water: psi4")
    assert text in str(error)
    cramped = error_from_text(text, who="water: psi4", cramped=True)
    assert cramped.kind == ("memory" if kind == "engine" else kind)


@pytest.mark.parametrize(
    ("child", "message", "kind"),
    [
        ("time", "stopped after its limit of 5 s", "time"),
        ("memory", "ran out of the memory it was allowed", "memory"),
        ("crash", "was killed by SIGSEGV", "crash"),
        ("crash", "was killed by SIGABRT; its last output: No space left on device", "disk"),
        ("crash", "was killed by SIGXFSZ", "disk"),
        ("lost", "vanished", "lost"),
    ],
)
def test_deaths_are_classified(child: str, message: str, kind: str) -> None:
    """The way a child died decides, unless its last words know better."""
    error = error_from_child(ChildError(message, kind=child), who="water: psi4")
    assert error.kind == kind
