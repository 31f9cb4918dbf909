"""The command line: run one command and turn how it ends into an exit code.

arguments.py declares which words each command takes; commands.py is what the commands do.
"""

import errno
import os
from collections.abc import Sequence

from detreg.arguments import parse_arguments
from detreg.environment import set_mlflow_defaults
from detreg.errors import DetregError, DiskError, NotFoundError
from detreg.full_install import explain_missing_module
from detreg.memory import find_memory_error
from detreg.redaction import redact
from detreg.signals import SignalExit, print_problems, raise_on_signals

EXIT_BUG = 70
EXIT_INTERRUPTED = 130

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit code.

    An error is printed to standard error, one line for each problem. With `--debug` among the
    words an error that is not a user's interruption passes through with its traceback.
    """
    is_debug = "--debug" in argv
    words = [word for word in argv if word != "--debug"]
    set_mlflow_defaults()
    raise_on_signals()

    try:
        arguments = parse_arguments(words)
        exit_code: int = arguments.command(arguments)
        return exit_code
    except KeyboardInterrupt:
        print_problems(["interrupted"])
        return EXIT_INTERRUPTED
    except SignalExit as interruption:
        print_problems([str(interruption)])
        return interruption.exit_code
    except BrokenPipeError:
        # The reader of our output, such as `head`, has read enough.
        return 0
    except Exception as error:
        if is_debug:
            raise
        return _report_error(error)


def _report_error(error: Exception) -> int:
    """Print the error, record it in the MLflow run, and return the exit code of its kind."""
    known = _find_known_error(error)

    if known is None:
        summary = " ".join(redact(str(error)).split())[:500]
        problem = (
            f"this is a bug in detreg, {type(error).__name__}: {summary}"
            " (add --debug for the traceback)"
        )
        print_problems([problem])
        _fail_waiting_run(error)
        return EXIT_BUG

    print_problems(known.problems)
    _fail_waiting_run(known)
    return known.exit_code


def _find_known_error(error: Exception) -> DetregError | None:
    """Return the error as one that a user can mend, or None where it is a bug."""
    if isinstance(error, DetregError):
        return error

    if isinstance(error, ModuleNotFoundError):
        return explain_missing_module(error)

    without_memory = find_memory_error(error)
    if without_memory is not None:
        return without_memory

    if isinstance(error, FileNotFoundError) and error.filename:
        return NotFoundError(f"{error.filename} does not exist")

    if isinstance(error, OSError) and (error.filename or error.errno in _DISK_ERRORS):
        place = error.filename or "the disk"
        return DiskError(f"{place}: {error.strerror}")

    return None


def _fail_waiting_run(error: Exception) -> None:
    """Record the failure in the run that `mlflow run` made, where training had not yet begun.

    Without this, MLflow would show that run as FAILED and nothing else.
    """
    if "MLFLOW_RUN_ID" not in os.environ:
        return

    from detreg.tracking.runs import tag_failure_before_start  # noqa: PLC0415 (imports MLflow)

    tag_failure_before_start(error)
