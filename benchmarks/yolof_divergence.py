"""Count how many short YOLOF trainings at three times the default rate diverge.

    python benchmarks/yolof_divergence.py              20 seeds, a quarter of an hour on one core
    python benchmarks/yolof_divergence.py --seeds 3

Each training starts from random weights and takes 40 steps of 8 drawn images of 96 px. One that
diverges ends with a loss that is NaN or infinite.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from detreg import templates
from detreg.data.dataset import load_dataset
from detreg.errors import StoppedError
from detreg.pipeline import parse_settings
from detreg.training.engine import fit
from detreg.training.job import prepare_job

DEFAULT_RATE = 0.12 / 64
VALUES = {
    "pretrained_weights": "none",
    "frozen_stages": 0,
    "image_size": 96,
    "batch_size": 8,
    "num_epochs": 1,
    "min_samples_per_epoch": 320,
    "num_workers": 0,
}


def is_divergent(seed: int, rate: float) -> bool:
    """Whether the training with this seed stops because its loss is NaN or infinite."""
    template = templates.find_template("yolof")
    params, options = parse_settings(template, {**VALUES, "per_item_lrate": rate, "seed": seed})
    dataset = load_dataset("sample")
    job = prepare_job(template, params, options, dataset)

    with tempfile.TemporaryDirectory() as folder:
        try:
            fit(job, Path(folder), None)
        except StoppedError:
            return True
    return False


def main() -> None:
    """Print a line for each seed, then the share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--times", type=float, default=3.0, help="multiple of the default rate")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    rate = arguments.times * DEFAULT_RATE
    diverged = 0
    for seed in range(arguments.seeds):
        has_diverged = is_divergent(seed, rate)
        diverged += has_diverged
        print(f"seed {seed}: {'NaN or infinite' if has_diverged else 'finite'}", flush=True)
    print(
        f"{diverged} of {arguments.seeds} trainings diverged at {arguments.times:g} times the rate"
    )


if __name__ == "__main__":
    main()
