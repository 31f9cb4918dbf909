"""Show what the recipe `few_images` rests on, from recorded trainings or by training anew.

    python benchmarks/defaults.py                              the tables of docs/train.md, at once
    python benchmarks/defaults.py --run ../shared/data/bccd    one dataset anew, with both recipes

The recorded trainings (benchmarks/data/defaults.jsonl) are of yolox_nano from COCO weights at
224 px with batches of 8, and of some templates from random weights. `--run` needs DETREG_WEIGHTS or
the hub for the weights; 8 epochs of 300 images take about 45 s of a core.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

RECORDED = Path(__file__).parent / "data" / "defaults.jsonl"
SETS = ("raccoon", "bccd", "cards", "fruits_nuts", "twenty classes", "small", "large")
"""The last three are drawn: 20 classes on 200 images, small objects on 200, large ones on 60."""
MAIN_SETS = SETS[:4]
RECIPES = ("published", "few_images")
SIZES: Mapping[str, Any] = {"base_model": "yolox_nano", "image_size": 224, "batch_size": 8}


@dataclass(frozen=True)
class Training:
    """One recorded training.

    study: `recipes`, `changes`, `screening`, `cold`, `cold3` and `cold30` (sweeps of 8, 3 and 30
        epochs), `memory`, `best` or `random weights`.
    variant: what was trained, in words; of a sweep's trial its number.
    factors: what screening and sweeps varied, by name.
    curve: val mAP after each epoch.
    """

    study: str
    dataset: str
    epochs: int
    variant: str
    seed: int
    factors: Mapping[str, Any]
    curve: Sequence[float]

    @property
    def mAP(self) -> float:  # noqa: N802
        """The best val mAP, which is that of the exported checkpoint."""
        return max(self.curve)


def read_trainings() -> list[Training]:
    """Return what was recorded."""
    lines = RECORDED.read_text().splitlines()
    return [Training(**json.loads(line)) for line in lines]


def format_mean(values: Sequence[float]) -> str:
    """Return the mean with its standard error; a single value without one."""
    if not values:
        return ""
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} ± {error:.3f}"


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n{title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def print_recipes(trainings: Sequence[Training]) -> None:
    """Compare the recipes, and the best of a sweep trained with other seeds."""
    values: dict[tuple[int, str, str], list[float]] = defaultdict(list)
    for training in trainings:
        if training.study in ("recipes", "best"):
            key = (training.epochs, training.dataset, training.variant)
            values[key].append(training.mAP)

    rows = []
    for epochs, dataset in sorted({key[:2] for key in values}, key=_order_of_row):
        found = [values[epochs, dataset, name] for name in (*RECIPES, "best of 14 trials")]
        gain = statistics.mean(found[1]) - statistics.mean(found[0])
        cells = [format_mean(part) for part in found]
        rows.append([dataset, str(epochs), *cells[:2], f"{gain:+.3f}", cells[2]])
    header = ("dataset", "epochs", *RECIPES, "gain", "best of 14 trials, two other seeds")
    print_table("Recipes (val mAP, mean and standard error over seeds)", header, rows)


def _order_of_row(key: tuple[int, str]) -> tuple[int, int]:
    return key[0], SETS.index(key[1])


def print_changes(trainings: Sequence[Training]) -> None:
    """Show what single changes bring to four datasets at 8 epochs."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for training in trainings:
        if training.study == "changes":
            values[training.variant][training.dataset] = training.mAP
    sets = ("raccoon", "bccd", "cards", "twenty classes")
    rows = []
    for variant, found in values.items():
        cells = [f"{found[name]:.3f}" for name in sets]
        rows.append([variant, *cells, f"{statistics.mean(found.values()):.3f}"])
    rows.sort(key=lambda row: row[-1], reverse=True)
    print_table("Single changes (val mAP, one seed)", ("change", *sets, "mean"), rows)


def print_importances(trainings: Sequence[Training]) -> None:
    """Show what mattered in the trainings that varied ten things at once at random.

    The dataset's mean is taken out of each value before Optuna's evaluator sees it.
    """
    screened = [training for training in trainings if training.study == "screening"]
    by_set: dict[str, list[float]] = defaultdict(list)
    for training in screened:
        by_set[training.dataset].append(training.mAP)

    distributions: dict[str, BaseDistribution] = {}
    for name in screened[0].factors:
        choices = sorted({str(training.factors[name]) for training in screened})
        if len(choices) > 1:
            distributions[name] = CategoricalDistribution(choices)
    study = optuna.create_study(direction="maximize")
    for training in screened:
        study.add_trial(
            optuna.trial.create_trial(
                params={name: str(training.factors[name]) for name in distributions},
                distributions=distributions,
                value=training.mAP - statistics.mean(by_set[training.dataset]),
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
    rows = [[name, f"{share:.0%}"] for name, share in importances.items()]
    title = f"Importances ({len(screened)} trainings of 8 epochs on {len(by_set)} datasets)"
    print_table(title, ("what was varied", "share of the variance"), rows)


def print_memory(trainings: Sequence[Training]) -> None:
    """Compare sweeps that remember those of the three other datasets with cold ones."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for training in trainings:
        if training.study in ("cold", "memory"):
            values[training.study, training.dataset].append(training.mAP)

    rows = []
    for dataset in MAIN_SETS:
        cold, warm = values["cold", dataset], values["memory", dataset]
        if cold and warm:
            figures = (cold[0], max(cold[:5]), max(cold), max(warm))
            rows.append([dataset, *(f"{figure:.3f}" for figure in figures)])
    header = ("dataset", "defaults", "cold, 5 trials", "cold, 14 trials", "memory, 5 trials")
    print_table("Sweeps (best val mAP so far, 8 epochs, one seed)", header, rows)


def print_random_weights(trainings: Sequence[Training]) -> None:
    """Show other starts: templates from random weights on the drawn sample."""
    rows = []
    for training in trainings:
        if training.study == "random weights":
            rows.append([training.variant, str(training.epochs), f"{training.mAP:.3f}"])
    print_table("From random weights, the drawn sample", ("training", "epochs", "val mAP"), rows)


def train_anew(data: str, epochs: int, seeds: int) -> list[Training]:
    """Train a dataset with both recipes and several seeds."""
    # torch takes seconds to import, and the tables do not need it.
    from detreg.data.dataset import load_dataset  # noqa: PLC0415
    from detreg.pipeline import parse_settings  # noqa: PLC0415
    from detreg.templates import find_template  # noqa: PLC0415
    from detreg.training.engine import fit  # noqa: PLC0415
    from detreg.training.job import prepare_job  # noqa: PLC0415

    template, dataset = find_template("yolox"), load_dataset(data)
    trainings = []
    for seed in range(seeds):
        for recipe in RECIPES:
            values = {**SIZES, "data": data, "num_epochs": epochs, "seed": seed, "recipe": recipe}
            params, options = parse_settings(template, values)
            job = prepare_job(template, params, options, dataset)
            with tempfile.TemporaryDirectory() as folder:
                fitted = fit(job, Path(folder), None)
            curve = [entry.mAP for entry in fitted.history]
            trainings.append(Training("recipes", dataset.name, epochs, recipe, seed, {}, curve))
            print(f"seed {seed}, {recipe}: val mAP {max(curve):.3f}", flush=True)
    return trainings


def main() -> None:
    """Print the tables, or train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", metavar="DATA", help="a dataset to train anew")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    if arguments.run:
        trainings = train_anew(arguments.run, arguments.epochs, arguments.seeds)
        for recipe in RECIPES:
            values = [training.mAP for training in trainings if training.variant == recipe]
            print(f"{recipe}: {format_mean(values)}")
        return

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trainings = read_trainings()
    print_recipes(trainings)
    print_changes(trainings)
    print_importances(trainings)
    print_memory(trainings)
    print_random_weights(trainings)


if __name__ == "__main__":
    main()
