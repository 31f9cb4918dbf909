"""What the pruners save at equal final quality, on synthetic learning curves; nothing is trained.

    python benchmarks/pruners.py            30 seeds of 60 trials of 12 epochs for each pruner: half a minute

A trial's curve rises to a final mAP that depends on its learning rate, image size and frozen stages; a low learning rate rises slowly and
crosses others late; every epoch has noise, as a small val split has. The same studies, sampler and pruners as `detreg sweep`. Regret is
how far the true final mAP of the trial that the study calls best lies under the best of the whole space.
"""

import math
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial

from detreg.sweeps import samplers

EPOCHS, TRIALS, NOISE = 12, 60, 0.008
PRUNERS = ("none", "median", "hyperband", "asha")


def final(rate: float, size: int, frozen: int) -> float:
    """The mAP that a training with these values ends at, without noise."""
    off = math.log10(rate / 4e-4)
    return 0.55 * math.exp(-(off**2) / 0.5) - 0.05 * (1 - size / 640) - 0.02 * frozen


def curve(rate: float, size: int, frozen: int, seed: int) -> Iterator[float]:
    """The val mAP after each epoch; the last third gains from the falling learning rate."""
    chance = np.random.default_rng(seed)
    end, speed = final(rate, size, frozen), 0.35 * (rate / 4e-4) ** 0.3
    for epoch in range(1, EPOCHS + 1):
        settled = 1 - 0.12 * max(0.0, 1 - epoch / EPOCHS) ** 0.5
        yield max(
            0.0,
            end * settled * (1 - math.exp(-speed * epoch)) / (1 - math.exp(-speed * EPOCHS))
            + chance.normal(0, NOISE),
        )


def run(pruner: str, seed: int) -> tuple[int, float, float]:
    """Epochs spent, regret, and seconds that the study itself took, of one study."""
    study = optuna.create_study(
        direction="maximize",
        sampler=samplers.make_sampler("tpe", seed, TRIALS, False),
        pruner=samplers.make_pruner(pruner, EPOCHS),
        study_name=str(seed),
    )
    spent = 0

    def objective(trial: Trial) -> float:
        nonlocal spent
        values = (
            trial.suggest_float("rate", 2e-5, 2e-3, log=True),
            trial.suggest_int("size", 320, 640, step=32),
            trial.suggest_int("frozen", 0, 2),
        )
        best = 0.0
        for epoch, mAP in enumerate(curve(*values, seed=1000 * seed + trial.number), start=1):
            spent += 1
            best = max(best, mAP)
            trial.report(mAP, epoch)
            if trial.should_prune() and epoch < EPOCHS and trial.number > 0:
                raise optuna.TrialPruned
        return best

    begun = time.perf_counter()
    study.optimize(objective, n_trials=TRIALS)
    return spent, final(4e-4, 640, 0) - true(study.best_trial), time.perf_counter() - begun


def true(trial: FrozenTrial) -> float:
    """The noiseless final mAP of a trial."""
    return final(trial.params["rate"], trial.params["size"], trial.params["frozen"])


def main(seeds: int) -> None:
    """Prints a row for each pruner."""
    print(f"{TRIALS} trials of {EPOCHS} epochs, {seeds} seeds; noise of an epoch {NOISE}")
    print(
        "| pruner | epochs | saved | regret, mean ± standard error | worst |\n|---|---|---|---|---|"
    )
    for pruner in PRUNERS:
        results = [run(pruner, seed) for seed in range(seeds)]
        spent = statistics.mean(result[0] for result in results)
        regrets = [result[1] for result in results]
        error = statistics.stdev(regrets) / math.sqrt(seeds)
        mean, saved = statistics.mean(regrets), EPOCHS * TRIALS / spent
        print(
            f"| {pruner} | {spent:.0f} | {saved:.2f} times | {mean:.4f} ± {error:.4f} | {max(regrets):.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
