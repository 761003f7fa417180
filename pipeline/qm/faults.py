"""What a program's complaint means: its text -> a kind of QMError."""

from pipeline.errors import ChildError, QMError
from pipeline.qm.rules import rule_of

# The first pattern found decides. psi4 1.3.2 calls every failure `unknown_error`: only its text tells more.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("could not converge scf", "scf"),
    ("scf did not converge", "scf"),
    ("iterations did not converge", "scf"),
    ("convergenceerror", "scf"),
    ("scf not converged", "scf"),
    ("scc not converged", "scf"),
    ("no space left on device", "disk"),
    ("disk quota exceeded", "disk"),
    ("file too large", "disk"),
    ("sigxfsz", "disk"),
    ("file size limit exceeded", "disk"),
    ("psio error", "disk"),
    ("psio_error", "disk"),
    ("bad_alloc", "memory"),
    ("memoryerror", "memory"),
    ("cannot allocate memory", "memory"),
    ("not enough memory", "memory"),
    ("unable to allocate", "memory"),
    ("failed to map segment", "memory"),
    ("out of memory", "memory"),
    ("basissetnotfound", "input"),
    ("unable to find a basis set", "input"),
    ("set_global_option", "input"),
    ("validationerror", "input"),
    ("missingmethoderror", "input"),
    ("managedmethoderror", "input"),
    ("rhf reference is only for singlets", "input"),
    ("inconsistent charge and multiplicity", "input"),
    ("atoms are too close", "geometry"),
    ("too close to each other", "geometry"),
    ("interatomic distance", "geometry"),
    ("linear dependen", "geometry"),
    ("sigsegv", "crash"),
    ("segmentation fault", "crash"),
    ("sigabrt", "crash"),
    ("timed out after", "lost"),  # QCEngine asks psi4 for its version, which takes longer on a choked machine
)
_TAIL = 1500
"""characters; a program's last words say why, its first thousand lines do not"""


def classify(text: str) -> str:
    """Name the kind of a failure from its text: scf, disk, memory, input, geometry, crash, lost or engine."""
    low = text.lower()
    return next((kind for pattern, kind in _PATTERNS if pattern in low), "engine")


def error_from_text(text: str, *, who: str, cramped: bool = False) -> QMError:
    """Make the classified error of a program's complaint, with its last lines.

    A library that is refused memory does not always say so (no thread, no shared object): words that mean
    nothing, from a process `cramped` by its memory limit, mean that.
    """
    kind = classify(text)
    if kind == "engine" and cramped:
        kind = "memory"
    message = f"{who} failed ({kind}): {text.strip()[-_TAIL:]}"
    return QMError(message, kind=kind, retryable=rule_of(kind).later)


def error_from_child(error: ChildError, *, who: str) -> QMError:
    """Make the classified error of a child process that did not live to answer."""
    kind = error.kind  # time, memory, crash or lost
    if kind == "crash" and classify(str(error)) in ("disk", "memory"):
        kind = classify(str(error))
    return QMError(f"{who}: {error}", kind=kind, retryable=rule_of(kind).later)
