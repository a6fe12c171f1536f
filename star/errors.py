"""Errors. A `StarError`, a mistake that a user can fix, ends a command with exit code 2, one sentence, no traceback."""

import errno
from collections.abc import Iterator

_NAMES = (
    *("EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EREMOTEIO", "ENOTCONN", "ETIMEDOUT"),
    *("ECONNRESET", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH", "ESHUTDOWN"),
)
PASSING = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
"""Errors of the system that say nothing about a file's content and may be gone at the next try, as on a network file system."""
FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
"""Errors of a disk, or of a quota, that is full."""


class StarError(Exception):
    """A mistake that its user can fix; the message says what, where, what is legal and what to do."""


class SpecError(StarError):
    """The YAML, an option of the command line, or a combination of both is not a legal experiment."""


class DataError(StarError):
    """Images, labels or weights are missing, damaged, or not what the spec says they are."""


class Stopped(Exception):
    """A worker was asked to stop, and did. This is not a failure; the message says what becomes of its work."""


class ScriptError(Exception):
    """A user's command ended with an exit code that means failure; the message has the last line that it printed."""


class ScriptKilled(ScriptError):
    """A user's command was killed by a signal that this program did not send: the machine may be short of memory."""


class NotFoundError(StarError):
    """A key, run or job that the ledger does not hold."""


class LedgerError(StarError):
    """The ledger's database cannot be reached, is of another version, or belongs to another home."""


class DamagedError(LedgerError):
    """A database of a home is no database, is damaged, or is of another version; `star-exp reindex` rebuilds it.

    Args:
        what: the database, and what is wrong with it.
        remedy: what to do.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}.")
        self.what = what


class ExecutorError(StarError):
    """An executor (Slurm, Ray, one's own) is not available, refuses a job, or may not be used as it is set up."""


def has_errno(error: BaseException | None, numbers: frozenset[int]) -> bool:
    """Whether an error, or one that it was made from, is the system's with one of these numbers."""
    return any(isinstance(one, OSError) and one.errno in numbers for one in _with_causes(error))


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__  # `from None` hides the context from tracebacks alone
