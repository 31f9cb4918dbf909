"""`detreg` and `python -m detreg`."""

import sys


def main() -> None:
    """The command line; its exit code is SPEC's."""
    from detreg.cli import run
    from detreg.torchrun import run_in_step

    sys.exit(run_in_step(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
