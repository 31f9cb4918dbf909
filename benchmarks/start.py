"""Measure what a user waits for beside the training itself: its start, its end, and a prediction.

    python benchmarks/start.py [--beside OTHER_CHECKOUT] [--rounds 5]

A training of yolox_nano on the drawn sample, one epoch at 96 px, and `detreg predict` of one image
with the file that it exports, each in a process of its own with one thread, every time in a new
folder, where MLflow has no database yet. Figures are medians of seconds: of the wall, and of the
main process's processor time, which other programs change little.
With `--beside` the same in another checkout, in turns. Last come the libraries whose modules take
longest to import before the first step, by their own time.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
TRAINING = ["train", "yolox", "--data", "sample", "--base_model", "yolox_nano"]
TRAINING += ["--pretrained_weights", "none", "--image_size", "96", "--num_epochs", "1"]
TRAINING += ["--min_samples_per_epoch", "16", "--registered_model_name", "start"]
PHASES = ("first step", "end", "predict")

# Runs detreg, and prints how far the clocks are after the first step, at the end of the training
# proper and when the process ends. It knows no name that differs from one checkout to another.
CHILD = """
import atexit, os, sys, time
from detreg.__main__ import main

def mark(name):
    wall = time.time() - float(os.environ["STARTED"])
    print(f"mark {name}: {wall} {time.process_time()}", file=sys.stderr, flush=True)

class EngineFinder:
    def find_spec(self, name, path, target=None):
        if name == "detreg.training.engine":
            sys.meta_path.remove(self)
            import importlib.util
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), watch(module))
            return spec

def watch(engine):
    from torch.optim.optimizer import register_optimizer_step_post_hook
    def mark_step(*_):
        hook.remove()
        mark("first step")
    hook = register_optimizer_step_post_hook(mark_step)
    fit = engine.fit
    def fit_and_mark(*args, **kwargs):
        fitted = fit(*args, **kwargs)
        mark("end of training")
        return fitted
    engine.fit = fit_and_mark

sys.meta_path.insert(0, EngineFinder())
atexit.register(mark, "exit")
main()
"""


@dataclass(frozen=True)
class Seconds:
    """Time of the wall and of the processor."""

    wall: float
    cpu: float

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


def main(beside: Path | None, rounds: int) -> None:
    """Print the table of all phases, and that of imports."""
    checkouts = {"this": CHECKOUT} | ({"beside": beside} if beside else {})
    measured: dict[str, dict[str, list[Seconds]]] = {
        name: {phase: [] for phase in PHASES} for name in checkouts
    }
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for name, checkout in checkouts.items():
                phases = measure(checkout, Path(folder) / name)
                # The first one draws the sample and writes the files of compiled modules.
                for phase, seconds in phases.items() if number else ():
                    measured[name][phase].append(seconds)
        print_phases(measured)
        for name, checkout in checkouts.items():
            print_imports(name, checkout, Path(folder) / name)


def measure(checkout: Path, folder: Path) -> dict[str, Seconds]:
    """Train and predict once, with the cache in `folder`, in a new folder inside it."""
    folder.mkdir(exist_ok=True)
    runs = Path(tempfile.mkdtemp(dir=folder))
    marks = read_marks(run_child(checkout, runs, TRAINING))
    model = next(runs.rglob("mlruns/**/*.onnx"))
    image = next(folder.rglob("*.jpg"))

    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    started = time.perf_counter()
    run_child(checkout, runs, ["predict", str(model), str(image), "--out", "predicted"])
    predicting = Seconds(
        time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used
    )
    return {
        "first step": marks["first step"],
        "end": marks["exit"] - marks["end of training"],
        "predict": predicting,
    }


def run_child(
    checkout: Path, folder: Path, words: Iterable[str], options: Iterable[str] = ()
) -> str:
    """Run a command of a checkout's detreg in `folder`; return what it prints to stderr.

    The cache is beside the folder, for all commands of the checkout.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
        "DETREG_CACHE": str(folder.parent / "cache"),
        "STARTED": str(time.time()),
    }
    command = [sys.executable, *options, "-c", CHILD, *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stderr


def read_marks(stderr: str) -> dict[str, Seconds]:
    """Return the clocks at each mark."""
    marks = {}
    for name, wall, cpu in re.findall(r"^mark (.*): (\S+) (\S+)$", stderr, re.MULTILINE):
        marks[name] = Seconds(float(wall), float(cpu))
    return marks


def print_phases(measured: Mapping[str, Mapping[str, list[Seconds]]]) -> None:
    """Print the medians of each phase, and the ratio of processor times."""
    print(f"{'':12}" + "".join(f"{name + ' wall':>14}{'cpu':>8}" for name in measured))
    for phase in PHASES:
        medians = []
        line = f"{phase:12}"
        for phases in measured.values():
            wall = statistics.median(seconds.wall for seconds in phases[phase])
            medians.append(statistics.median(seconds.cpu for seconds in phases[phase]))
            line += f"{wall:14.2f}{medians[-1]:8.2f}"
        if len(medians) == 2:
            line += f"   {medians[0] / medians[1]:.2f} of the other's processor time"
        print(line)


def print_imports(name: str, checkout: Path, folder: Path, most: int = 12) -> None:
    """Print the libraries with the longest imports before the first step."""
    runs = Path(tempfile.mkdtemp(dir=folder))
    stderr = run_child(checkout, runs, TRAINING, ["-X", "importtime"])
    before_step = stderr[: stderr.index("mark first step")]
    seconds: dict[str, float] = defaultdict(float)
    for microseconds, module in re.findall(
        r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)", before_step, re.MULTILINE
    ):
        seconds[module] += int(microseconds) / 1e6

    longest = sorted(seconds, key=lambda library: -seconds[library])[:most]
    listed = ", ".join(f"{library} {seconds[library]:.2f}" for library in longest)
    print(f"imports, {name} ({sum(seconds.values()):.1f} s in all): {listed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=lambda text: Path(text).resolve())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.beside, arguments.rounds)
