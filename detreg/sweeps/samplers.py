"""How a sweep chooses the values of a trial, and which trials it stops early."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from detreg.sweeps.plan import Plan


class SeededSampler(BaseSampler):
    """A sampler that makes a new inner sampler for each trial, seeded by the trial's number.

    What a trial tries then depends on the sweep's seed, the trial's number and the trials before
    it, not on which worker asks, nor on whether a worker was restarted.

    Args:
        make: makes the inner sampler of a seed.
        seed: the sweep's.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._inner = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler of this trial."""
        sequence = np.random.SeedSequence((self._seed, trial.number))
        trial_seed = int(sequence.generate_state(1)[0])
        self._inner = self._make(trial_seed)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what the inner sampler returns."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return what the inner sampler returns."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return what the inner sampler returns."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass the result on to the inner sampler."""
        self._inner.after_trial(study, trial, state, values)


def make_sampler(kind: str, seed: int, wanted: int, is_conditional: bool) -> BaseSampler:
    """Make the sampler of a sweep with `wanted` trials.

    TPE models what has been good after a quarter of the trials (4 to 10) at random; the kind
    `random` never does. `is_conditional` is for templates that have parameters of their own, which
    TPE then models in groups.
    """
    if kind == "random":
        return SeededSampler(lambda trial_seed: RandomSampler(seed=trial_seed), seed)

    startup_trials = min(10, max(4, wanted // 4))

    def make_tpe(trial_seed: int) -> BaseSampler:
        return TPESampler(
            seed=trial_seed,
            n_startup_trials=startup_trials,
            multivariate=True,
            group=is_conditional,
            constant_liar=True,
        )

    return SeededSampler(make_tpe, seed)


def make_pruner(kind: str, num_epochs: int) -> BasePruner:
    """Make what stops trials of `num_epochs` epochs early.

    benchmarks/pruners.py measures what each kind saves.
    """
    first_rung = max(1, num_epochs // 12)
    if kind == "asha":
        # Halving saves less than Optuna's quartering, but costs no quality of the best trial.
        return SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=2)
    if kind == "hyperband":
        return HyperbandPruner(min_resource=first_rung, max_resource=num_epochs, reduction_factor=2)
    if kind == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, num_epochs // 4))
    return NopPruner()


def make_search_sampler(plan: Plan) -> BaseSampler:
    """Make the sampler that a sweep's plan names."""
    return make_sampler(
        plan.sweep.sampler,
        plan.options.seed,
        plan.sweep.trials,
        is_conditional=len(plan.templates) > 1,
    )


def make_search_pruner(plan: Plan) -> BasePruner:
    """Make the pruner that a sweep's plan names."""
    return make_pruner(plan.sweep.pruner, plan.num_epochs)
