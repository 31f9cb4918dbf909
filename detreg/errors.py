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
import unicodedata
from collections.abc import Sequence

from detreg.redaction import redact

MAX_VALUE_LENGTH = 200
"""Most characters of a value in a message."""

_MAX_LINE_LENGTH = 2000
_GAP = " ... "


class DetregError(Exception):
    """One problem or several, each a line that a user can act on."""

    exit_code = 70

    def __init__(self, problems: str | Sequence[str]) -> None:
        if isinstance(problems, str):
            problems = (problems,)
        # Messages quote URLs, and the errors of libraries that quote them.
        # Hidden before the text is cut, which could leave a part of a password.
        self.problems: tuple[str, ...] = tuple(
            make_printable(redact(problem)) for problem in problems
        )
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


def quote(value: object) -> str:
    """Return a value as Python writes it, in at most 200 characters, for a message.

    Values come from files that anyone may have written. They are never written out in full: a list
    in YAML may hold itself ten billion times, and a number may have more digits than Python prints.
    """
    return shorten(_BOUNDED.repr(value))


def is_storable(name: str) -> bool:
    """Whether a name is short enough, and Unicode without control characters."""
    if len(name) > MAX_VALUE_LENGTH:
        return False
    return all(
        character.isspace() or unicodedata.category(character) not in ("Cc", "Cs")
        for character in name
    )


def make_printable(problem: str) -> str:
    """Return a problem as one line that any terminal and any log can take.

    Names in it come from files that anyone may have written: they may hold sequences that control a
    terminal, line breaks that forge another message, or halves of characters that cannot be
    encoded. Where one is so long that nobody reads it, its middle is left out.
    """
    line = shorten(problem, _MAX_LINE_LENGTH)
    if line.isprintable():
        return line
    # An escape is longer than what it stands for.
    return shorten("".join(map(_escape, line)), _MAX_LINE_LENGTH)


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    if character.isspace():
        return " "
    return character.encode("unicode_escape").decode()


def shorten(text: str, length: int = MAX_VALUE_LENGTH) -> str:
    """Return the text, without its middle where it is longer than `length` characters."""
    if len(text) <= length:
        return text
    # The start of a line says what is wrong and where, its end how to mend it.
    end = length // 4
    start = length - end - len(_GAP)
    return f"{text[:start]}{_GAP}{text[-end:]}"


class _BoundedRepr(reprlib.Repr):
    """`repr` that looks at a few parts of a value only."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = 30
        self.maxstring = self.maxother = 2 * MAX_VALUE_LENGTH

    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002
        """Return the digits of a number, or how long it is."""
        if abs(x) < 10**MAX_VALUE_LENGTH:
            return repr(x)
        return f"<a number of {x.bit_length()} bits>"


_BOUNDED = _BoundedRepr()


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
