"""Check and measure everything that needs a GPU, in one command of at most nine minutes.

    python benchmarks/gpu.py                      on the GPU: the sizes of the templates
    python benchmarks/gpu.py yolox ssd            some templates only
    python benchmarks/gpu.py --toy                64 px and two steps, on whatever there is

Nothing is downloaded: all networks start from random weights and learn drawn images. Runs and
models go to a folder that is removed afterwards. Prints the tables of docs/gpu.md; what failed is
named in the last lines, and the exit code is 1 then. A row that no time is left for says so.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import torch
from gpu_checks import (
    HAS_GPU,
    check_continuation,
    check_one_process_group,
    check_shrinking,
    measure_model,
    measure_steps,
)
from gpu_sizes import FULL, TOY, Sizes

from detreg.data.dataset import load_dataset
from detreg.data.sample import write_sample
from detreg.environment import set_mlflow_defaults
from detreg.templates import TEMPLATES

LIMIT_S = 520.0
"""No row begins later than this after the start; the longest one takes some 20 s on a GPU."""

PRECISIONS = ("fp32", "bf16", "fp16") if HAS_GPU else ("fp32", "bf16")


class Table:
    """Rows that are computed one after the other and printed at once, and which of them failed."""

    def __init__(self, *columns: str) -> None:
        self.failures: list[str] = []
        print("\n| " + " | ".join(columns) + " |")
        print("|" + "---|" * len(columns), flush=True)

    def add(self, names: list[str], compute: Callable[..., list[str]], *arguments: object) -> None:
        """Print the cells that `compute` returns behind `names`, or why there are none."""
        if time.monotonic() - START > LIMIT_S:
            cells = ["not run: the time is up"]
        else:
            try:
                with contextlib.redirect_stdout(sys.stderr):  # what trainings print
                    cells = compute(*arguments)
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                cells = [f"FAILED: {type(error).__name__}: {str(error)[:120]}"]
        print("| " + " | ".join(names + cells) + " |", flush=True)
        if cells[0].startswith(("FAILED", "not run")):
            self.failures.append(" ".join(names) + ": " + cells[0])


def main() -> int:
    """Print all tables; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("templates", nargs="*", default=list(TEMPLATES), metavar="TEMPLATE")
    parser.add_argument("--toy", action="store_true", help="small sizes, also without a GPU")
    arguments = parser.parse_args()

    if not HAS_GPU and not arguments.toy:
        parser.error("torch sees no GPU; --toy runs the same checks small, on the CPU")
    sizes = TOY if arguments.toy else FULL

    print(f"card: {torch.cuda.get_device_name() if HAS_GPU else 'none'}")
    print(f"torch {torch.__version__}, onnxruntime {ort.__version__}: ", end="")
    print(", ".join(ort.get_available_providers()))

    with tempfile.TemporaryDirectory() as folder:
        os.environ["DETREG_CACHE"] = f"{folder}/cache"
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        set_mlflow_defaults()
        os.chdir(folder)  # MLflow puts artifacts there
        failures = run_all(arguments.templates, sizes, Path(folder))

    print(f"\n{time.monotonic() - START:.0f} s in all")
    for failure in failures:
        print(failure)
    return 1 if failures else 0


def run_all(templates: list[str], sizes: Sizes, folder: Path) -> list[str]:
    """Run every check, the quickest first; return those that failed."""
    write_sample(folder / "drawn", images=sizes.images, size=sizes.drawn)
    dataset = load_dataset(folder / "drawn")

    checks = Table("check", "result")
    checks.add(["one process in a group"], check_one_process_group, dataset, sizes)
    for precision in ("fp32", "bf16"):
        names = [f"exact continuation in {precision}"]
        checks.add(names, check_continuation, dataset, sizes, precision, folder)
    checks.add(["on_oom=shrink"], check_shrinking, dataset, sizes)

    steps = Table(
        "template", "precision", "images a second", "waits for images", "peak memory, MiB"
    )
    for template in templates:
        for precision in PRECISIONS:
            names = [template, precision]
            steps.add(names, measure_steps, template, precision, dataset, sizes, folder)

    models = Table(
        "template", "runs on", "parity", "1 image, ms", "32 images, ms an image", "train to end, s"
    )
    for template in templates:
        models.add([template], measure_model, template, dataset, sizes)
    return checks.failures + steps.failures + models.failures


START = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
