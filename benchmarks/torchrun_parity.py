r"""Compare a training in one process with the same training in several processes.

The yardstick is a third training, in one process, whose initial weights are moved by a
ten-millionth, as much as rounding does: two trainings cannot be expected to be closer than that.

    DETREG_WEIGHTS=/data/weights python benchmarks/torchrun_parity.py /data/bccd
    python benchmarks/torchrun_parity.py /data/bccd --weights none --processes 4 \
        --image_size 160 --num_epochs 3

Trains yolox_nano; further arguments are those of `detreg train`. Every run is logged and registered
as usual, in a folder that is removed afterwards. Prints a table of the losses of the first steps,
and of loss and mAP of each epoch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from mmengine.dist import all_reduce
from mmengine.runner import Runner

from detreg.cli import run
from detreg.torchrun import get_rank, run_in_step
from detreg.training.epoch_hooks import LossMeter, MetricLogHook

DEFAULTS = {
    "base_model": "yolox_nano",
    "image_size": 192,
    "batch_size": 8,
    "num_epochs": 2,
    "num_workers": 1,
}
STEPS = 5
"""How many of the first steps are shown."""
ROUNDING = 1e-7


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument(
        "--weights", default="coco", help="a checkpoint, coco, or none for random weights"
    )
    parser.add_argument("--processes", type=int, default=2)
    arguments, others = parser.parse_known_args()

    words = ["--data", str(Path(arguments.data).resolve())]
    if arguments.weights in ("none", "coco"):
        words += ["--pretrained_weights", arguments.weights]
    else:
        words += ["--load_from", str(Path(arguments.weights).resolve())]
    for name, value in DEFAULTS.items():
        words += [f"--{name}", str(value)]
    words += others  # the last one of a flag counts

    one = train(words, processes=1)
    several = train(words, processes=arguments.processes)
    moved = train(words, processes=1, move=ROUNDING)

    print(f"| | 1 process | {arguments.processes} processes | apart | 1 process, moved | apart |")
    print("|---|---|---|---|---|---|")
    for name, value in one.items():
        cells = [f"{value:.6f}"]
        for other in (several, moved):
            cells += [f"{other[name]:.6f}", f"{abs(other[name] - value):.6f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def train(words: list[str], processes: int, move: float = 0.0) -> dict[str, float]:
    """Train in processes of their own, and return what the first one shows, by name."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [str(Path(__file__).resolve()), "--one", str(move), "train", "yolox", *words]

    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder) / "shown.json"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "SHOWN": str(shown),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }
        subprocess.run(command, check=True, stdout=sys.stderr, env=environment, cwd=folder)
        return dict(json.loads(shown.read_text()))


def train_in_this_process(move: float, words: list[str]) -> int:
    """Train in one of the processes, and write what the first one shows; return the exit code.

    That is the losses of the first steps and the metrics of the epochs. `move` scales the noise
    that is added to the initial weights.
    """
    shown: dict[str, float] = {}
    before_train = LossMeter.before_train
    after_train_iter = LossMeter.after_train_iter
    after_val_epoch = MetricLogHook.after_val_epoch

    def move_weights(self: LossMeter, runner: Runner) -> None:
        before_train(self, runner)
        with torch.no_grad():
            for parameter in runner.model.parameters():
                parameter.mul_(1 + move * torch.randn_like(parameter))

    def note_step(
        self: LossMeter,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: dict[str, torch.Tensor] | None = None,
    ) -> None:
        after_train_iter(self, runner, batch_idx, data_batch, outputs)
        if outputs and runner.iter < STEPS:
            loss = outputs["loss"].detach().clone()
            all_reduce(loss, op="mean")
            shown[f"loss of step {runner.iter + 1}"] = float(loss)

    def note_epoch(
        self: MetricLogHook, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        after_val_epoch(self, runner, metrics)
        row = self.history.entries[-1].to_row()
        for name in ("train/loss", "val/mAP", "val/mAP_50"):
            shown[f"{name} of epoch {runner.epoch}"] = row[name]

    LossMeter.before_train = move_weights
    LossMeter.after_train_iter = note_step  # type: ignore[method-assign]
    MetricLogHook.after_val_epoch = note_epoch  # type: ignore[method-assign]
    exit_code = run_in_step(lambda: run(words))
    if get_rank() == 0:
        Path(os.environ["SHOWN"]).write_text(json.dumps(shown))
    return exit_code


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.exit(train_in_this_process(float(sys.argv[2]), sys.argv[3:]))
    main()
