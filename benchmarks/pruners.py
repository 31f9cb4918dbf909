"""Measure what the pruners save at equal final quality, on synthetic learning curves.

    python benchmarks/pruners.py            30 seeds of 60 trials of 12 epochs: half a minute

Nothing is trained. A trial's curve rises to a final mAP that depends on its learning rate, image
size and frozen stages; a low learning rate rises slowly and crosses others late; every epoch has
noise, as a small val split has. Studies, sampler and pruners are those of `detreg sweep`. Regret is
how far the true final mAP of the trial that the study calls best lies under the best of the space.
"""

import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import Trial

from detreg.sweeps import samplers

EPOCHS = 12
TRIALS = 60
NOISE = 0.008
PRUNERS = ("none", "median", "hyperband", "asha")


@dataclass(frozen=True)
class Values:
    """The hyperparameters of a trial."""

    rate: float
    size: int
    frozen: int


BEST = Values(rate=4e-4, size=640, frozen=0)


@dataclass(frozen=True)
class Result:
    """What one study took: epochs, regret, and the seconds of the study itself."""

    epochs: int
    regret: float
    seconds: float


def compute_final(values: Values) -> float:
    """Compute the mAP that a training with these values ends at, without noise."""
    decades_off = math.log10(values.rate / BEST.rate)
    peak = 0.55 * math.exp(-(decades_off**2) / 0.5)
    return peak - 0.05 * (1 - values.size / 640) - 0.02 * values.frozen


def draw_curve(values: Values, seed: int) -> Iterator[float]:
    """Yield the val mAP after each epoch; the last third gains from the falling learning rate."""
    random = np.random.default_rng(seed)
    final = compute_final(values)
    speed = 0.35 * (values.rate / BEST.rate) ** 0.3
    for epoch in range(1, EPOCHS + 1):
        settled = 1 - 0.12 * max(0.0, 1 - epoch / EPOCHS) ** 0.5
        mAP = final * settled * (1 - math.exp(-speed * epoch)) / (1 - math.exp(-speed * EPOCHS))
        yield max(0.0, mAP + random.normal(0, NOISE))


def run_study(pruner: str, seed: int) -> Result:
    """Run one study."""
    study = optuna.create_study(
        direction="maximize",
        sampler=samplers.make_sampler("tpe", seed, TRIALS, False),
        pruner=samplers.make_pruner(pruner, EPOCHS),
        study_name=str(seed),
    )
    epochs = 0

    def run_trial(trial: Trial) -> float:
        nonlocal epochs
        values = Values(
            rate=trial.suggest_float("rate", 2e-5, 2e-3, log=True),
            size=trial.suggest_int("size", 320, 640, step=32),
            frozen=trial.suggest_int("frozen", 0, 2),
        )
        best = 0.0
        curve = draw_curve(values, seed=1000 * seed + trial.number)
        for epoch, mAP in enumerate(curve, start=1):
            epochs += 1
            best = max(best, mAP)
            trial.report(mAP, epoch)
            # As in a sweep, the first trial has the defaults and is never pruned.
            if trial.should_prune() and epoch < EPOCHS and trial.number > 0:
                raise optuna.TrialPruned
        return best

    begun = time.perf_counter()
    study.optimize(run_trial, n_trials=TRIALS)
    seconds = time.perf_counter() - begun

    chosen = Values(**study.best_trial.params)
    return Result(epochs, compute_final(BEST) - compute_final(chosen), seconds)


def main(seeds: int) -> None:
    """Print a row for each pruner."""
    print(f"{TRIALS} trials of {EPOCHS} epochs, {seeds} seeds; noise of an epoch {NOISE}")
    print("| pruner | epochs | saved | regret, mean ± standard error | worst |")
    print("|---|---|---|---|---|")
    for pruner in PRUNERS:
        results = [run_study(pruner, seed) for seed in range(seeds)]
        epochs = statistics.mean(result.epochs for result in results)
        saved = EPOCHS * TRIALS / epochs

        regrets = [result.regret for result in results]
        mean = statistics.mean(regrets)
        error = statistics.stdev(regrets) / math.sqrt(seeds)
        print(
            f"| {pruner} | {epochs:.0f} | {saved:.2f} times | {mean:.4f} ± {error:.4f} "
            f"| {max(regrets):.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
