"""`detreg` and `python -m detreg`."""

import io
import os
import sys

from detreg.cli import run
from detreg.redaction import redact_output
from detreg.signals import end_with_parent, end_without_signals
from detreg.torchrun import run_in_step


def main() -> None:
    """Run the command line and exit with its code, which under torchrun all processes share."""
    _escape_what_cannot_be_encoded()
    redact_output()
    if "MLFLOW_RUN_ID" in os.environ:  # started by `mlflow run`
        end_with_parent()
    try:
        exit_code = run_in_step(lambda: run(sys.argv[1:]))
    finally:
        end_without_signals()
    sys.exit(exit_code)


def _escape_what_cannot_be_encoded() -> None:
    """Let names that the terminal's encoding lacks be printed, as standard error does anyway."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
