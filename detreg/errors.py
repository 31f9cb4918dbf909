"""Every error that detreg raises on purpose, each with the exit code that the command line ends with.

A message says what is wrong, where, and how to put it right. An error may carry many problems at once, so that a user mends them
in one go; anything that is not a DetregError is a bug of detreg's (exit code 70).
"""

from collections.abc import Sequence


class DetregError(Exception):
    """One problem or several, each a line that a user can act on."""

    exit_code = 70

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (
            (problems,) if isinstance(problems, str) else tuple(problems)
        )
        super().__init__("\n".join(self.problems))


class UsageError(DetregError):
    """Arguments or hyperparameters that cannot be meant."""

    exit_code = 2


class DataError(DetregError):
    """A dataset, a picture or a checkpoint whose content is wrong."""

    exit_code = 65


class NotFoundError(DetregError):
    """A file, a folder, a run or a registered model that is not there."""

    exit_code = 66


class UnreachableError(DetregError):
    """A server or a download that cannot be reached."""

    exit_code = 69


class MemoryExhaustedError(DetregError):
    """The accelerator or the machine has no memory left."""

    exit_code = 71


class DiskError(DetregError):
    """The disk is full or does not take what is written."""

    exit_code = 74


class StoppedError(DetregError):
    """Training stopped before its end; what is done is kept and can be continued."""

    exit_code = 75


class RefusedError(DetregError):
    """Something that detreg does not do for safety, such as running code from a file or registering a model that failed parity."""

    exit_code = 77


def describe_failure(error: BaseException) -> str:
    """Return why a run or a trial failed, as its tag holds it: all problems of a DetregError on one line."""
    if isinstance(error, DetregError):
        return "; ".join(error.problems)
    if isinstance(error, Exception):
        return f"{type(error).__name__}: {error}"
    return str(error) or "interrupted"


def summarize_error(error: BaseException) -> str:
    """Return the first line of an error's text, cut to 300 characters; the error's class where it has no text."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else type(error).__name__
    return first[:300]
