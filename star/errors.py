"""What a user can get wrong. Every leaf ends a command with exit code 2 and one sentence, no traceback."""


class StarError(Exception):
    """A mistake that its user can fix; the message says what, where, what is legal and what to do."""


class SpecError(StarError):
    """The YAML, an option of the command line, or a combination of both is not a legal experiment."""


class DataError(StarError):
    """Images, labels or weights are missing, damaged, or not what the spec says they are."""


class Stopped(Exception):
    """A worker was asked to stop, and did; no error. The message says what becomes of its work."""


class ScriptError(Exception):
    """A command of the user's own ended with an exit code that is none of success; the message has the last line that it printed."""


class ScriptKilled(ScriptError):
    """A command of the user's own was ended by a signal that nobody here sent: the machine may be short of memory."""


class NotFoundError(StarError):
    """A key, run or job that the ledger does not hold."""


class LedgerError(StarError):
    """The ledger's database is away, of another version, or belongs to another home."""


class DamagedError(LedgerError):
    """A database of a home is none, not whole, or of another version; `star-exp reindex` makes it anew.

    Args:
        what: the database, and what is wrong with it.
        remedy: what to do.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}.")
        self.what = what


class ExecutorError(StarError):
    """Slurm or Ray is not there, refuses a job, or may not be used as it is set up."""
