"""Compare the val mAP of trainings in bf16 and in float32, with several seeds.

    DETREG_WEIGHTS=../shared/weights python benchmarks/precision_seeds.py bccd cards raccoon

trains yolox_nano from COCO weights, 8 epochs at 224 px, three times in each precision on each
dataset: about a minute of one core each, 18 in all. Each argument is the path of a dataset. Prints
a row for each dataset: means and standard deviations, and their difference with its standard
error.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

VALUES = {
    "base_model": "yolox_nano",
    "image_size": "224",
    "num_epochs": "8",
    "batch_size": "8",
    "recipe": "published",
}


def train(data: Path, precision: str, seed: int, folder: Path) -> float:
    """Train once, and return the val mAP of the exported best epoch."""
    values = VALUES | {"data": str(data.resolve()), "precision": precision, "seed": str(seed)}
    command = [sys.executable, "-m", "detreg", "train", "yolox", "--json"]
    for name, value in values.items():
        command += [f"--{name}", value]

    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["mAP"])


def format_mean(scores: list[float]) -> str:
    return f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}"


def format_difference(scores: list[float], others: list[float]) -> str:
    """Return the difference of two means with its standard error."""
    difference = statistics.mean(scores) - statistics.mean(others)
    variance = statistics.variance(scores) / len(scores)
    variance += statistics.variance(others) / len(others)
    return f"{difference:+.3f} ± {math.sqrt(variance):.3f}"


def main() -> None:
    """Train, and print a row for each dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    print("| dataset | bf16 | float32 | difference ± standard error |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for data in arguments.data:
            scores: dict[str, list[float]] = {"bf16": [], "fp32": []}
            for seed in range(arguments.seeds):
                for precision, found in scores.items():
                    found.append(train(data, precision, seed, Path(folder)))

            bf16, fp32 = scores["bf16"], scores["fp32"]
            row = [data.name, format_mean(bf16), format_mean(fp32), format_difference(bf16, fp32)]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
