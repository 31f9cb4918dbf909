"""Every error that detreg raises on purpose, with the exit code of the command line.

    DetregError              70   as is a bug: any other exception ends with 70 too
    ├── UsageError            2   wrong arguments or hyperparameters
    ├── DataError            65   wrong content of a dataset, an image or a checkpoint
    ├── NotFoundError        66   a missing file, folder, run or registered model
    ├── UnreachableError     69   a server or a download that cannot be reached
    ├── MemoryExhaustedError 71   no memory left on the GPU or the machine
    ├── DiskError            74   a disk that is full or refuses a write
    ├── StoppedError         75   training stopped early and can be resumed
    ├── UndeliveredError     75   complete on the disk, and not yet in MLflow: `detreg sync`
    └── RefusedError         77   refused for safety

A message says what is wrong, where, and how to mend it. An error may carry many problems at once,
so that a user can mend all of them before the next try. Passwords and tokens in a message are
hidden (redaction.py).
"""

import reprlib
from collections.abc import Sequence

from detreg.redaction import redact

_MAX_SHOWN = 200


class DetregError(Exception):
    """One problem or several, each a line that a user can act on."""

    exit_code = 70

    def __init__(self, problems: str | Sequence[str]) -> None:
        if isinstance(problems, str):
            problems = (problems,)
        # Messages quote URLs, and the errors of libraries that quote them.
        self.problems: tuple[str, ...] = tuple(redact(problem) for problem in problems)
        super().__init__("\n".join(self.problems))


class UsageError(DetregError):
    """Arguments or hyperparameters that are unknown, out of their domain or contradictory."""

    exit_code = 2


class DataError(DetregError):
    """A dataset, an image or a checkpoint with wrong content."""

    exit_code = 65


class NotFoundError(DetregError):
    """A file, a folder, a run or a registered model that does not exist."""

    exit_code = 66


class UnreachableError(DetregError):
    """A server or a download that cannot be reached."""

    exit_code = 69


class MemoryExhaustedError(DetregError):
    """No memory left on the GPU or the machine."""

    exit_code = 71


class DiskError(DetregError):
    """A disk that is full or refuses a write."""

    exit_code = 74


class StoppedError(DetregError):
    """Training stopped before its end; what was trained is saved and can be resumed."""

    exit_code = 75


class UndeliveredError(DetregError):
    """What was done is complete on the disk, but MLflow does not have all of it yet."""

    exit_code = 75


class RefusedError(DetregError):
    """An action refused for safety.

    Such as running code from a file, or registering a model that failed parity.
    """

    exit_code = 77


def describe_failure(error: BaseException) -> str:
    """Return why a run or a trial failed, on one line, as its tag holds it."""
    if isinstance(error, DetregError):
        return "; ".join(error.problems)
    if isinstance(error, Exception):
        return redact(f"{type(error).__name__}: {error}")
    return redact(str(error)) or "interrupted"


def summarize_error(error: BaseException) -> str:
    """Return the first line of an error's text, at most 300 characters.

    An error without text is summarized by its class.
    """
    lines = redact(str(error)).strip().splitlines()
    first = lines[0] if lines else type(error).__name__
    return first[:300]


def shorten_value(value: object) -> str:
    """Return a value from a file as a message shows it: on one line, at most 200 characters.

    The value may be anything: a list within a list a thousand times, a number of ten thousand
    digits, a text with half of a surrogate pair.
    """
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = _MAX_SHOWN
    try:
        text = shown.repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that is too long to show"
    return text.encode(errors="backslashreplace").decode()[:_MAX_SHOWN]
