"""The exception tree. Every message says what went wrong, where, and what to do.

ParmflowError
├── UsageError                 the user's command, settings or paths: exit 2, nothing half-written
│   ├── LibraryFileError       a library file that cannot be opened or has no readable form
│   ├── SettingsError          an unknown key or a value out of range
│   └── OutputFolderError      an output folder that cannot be written or holds another run
├── LigandError                one record; the batch goes on
│   ├── RecordError            the record's text cannot be read
│   ├── RefusedLigandError     read, but outside what we parametrise
│   ├── ConformerError
│   ├── ParametersError        no parameter for a term, or one outside its physical range
│   ├── ExportError            a format that cannot express the ligand
│   └── VerificationError      a file read back that disagrees
├── QMError                    a reference calculation
├── ChildError                 a child process that died, hung, or grew
├── DiskError                  files that could not be written in mid-run: what is done stays, the run stops
└── StoreError                 the QM store: corrupt, locked, disk full
"""

import errno


class ParmflowError(Exception):
    """Base of all; `kind` classifies, `retryable` says whether trying again can help."""

    kind = "error"
    retryable = False

    def __init__(self, message: str, *, kind: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        if kind is not None:
            self.kind = kind
        if retryable is not None:
            self.retryable = retryable

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a trip through a child process with kind and retryable intact."""
        return _rebuild, (type(self), str(self), self.kind, self.retryable)


def _rebuild(cls: type[ParmflowError], message: str, kind: str, retryable: bool) -> ParmflowError:
    return cls(message, kind=kind, retryable=retryable)


class UsageError(ParmflowError):
    """The user's command, settings or paths."""

    kind = "usage"


class LibraryFileError(UsageError):
    """A library file that cannot be opened or whose form is unknown."""

    kind = "library-file"


class SettingsError(UsageError):
    """An unknown key or a value out of range."""

    kind = "settings"


class OutputFolderError(UsageError):
    """An output folder that cannot be written or that holds another run."""

    kind = "output-folder"


class LigandError(ParmflowError):
    """Something about one ligand; the batch goes on."""

    kind = "ligand"


class RecordError(LigandError):
    """A record whose text cannot be read."""

    kind = "unreadable"


class RefusedLigandError(LigandError):
    """A readable record outside what parmflow parametrises; the kind names the reason."""

    kind = "refused"


class ConformerError(LigandError):
    """No conformer could be made within the limits."""

    kind = "conformers"


class ParametersError(LigandError):
    """A term without parameter, or a parameter that is not finite or out of its physical range."""

    kind = "parameters"


class ExportError(LigandError):
    """A file format that cannot express this ligand."""

    kind = "export"


class VerificationError(LigandError):
    """A written file that, read back, gives another energy; the message holds the numbers."""

    kind = "verify"


class QMError(ParmflowError):
    """A reference calculation that failed; kinds: input, memory, disk, time, scf, geometry, crash, engine."""

    kind = "qm"


class ChildError(ParmflowError):
    """A supervised child process that ended badly; kinds: time, memory, crash, lost, disk (never begun)."""

    kind = "crash"
    retryable = True


class DiskError(ParmflowError):
    """A disk that is full or fails in the middle of a run: no fault of the ligand, nor of the command."""

    kind = "disk"
    retryable = True


def is_full(error: OSError) -> bool:
    """Whether the system had no room left on the disk, or none for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class StoreError(ParmflowError):
    """The QM store or a ledger: corrupt, of a newer version, locked, lost, or out of disk."""

    kind = "store"
