"""`detreg` and `python -m detreg`."""

import sys

from detreg.cli import run
from detreg.redaction import redact_output
from detreg.torchrun import run_in_step


def main() -> None:
    """Run the command line and exit with its code, which under torchrun all processes share."""
    redact_output()
    sys.exit(run_in_step(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
