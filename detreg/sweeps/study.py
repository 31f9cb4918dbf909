"""The state of a sweep: an Optuna study. It lies in Optuna's database and nowhere else, so any command on any machine can go on with it.

A trial whose worker died is failed by its missing heartbeats and retried, under a new number, with the same parameters. A trial with its
retries is a *lineage*; `wanted` lineages make a sweep. Which trial belongs, and which is one too many, follows from the numbers alone,
so that workers agree without talking: of lineages the first `wanted` count, of a lineage the first retry after each failure.
"""

import contextlib
import datetime
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from detreg.errors import UnreachableError, UsageError
from detreg.sweeps.plan import Plan

BEGUN = "begun"
"""The number of a trial that a worker has begun; a retry inherits its predecessor's."""
FAILURE = "failure"
"""Why a trial failed for good."""
EXCESS = "excess"
"""Set on a trial that was one too many and did nothing."""
RUNS = "runs"
"""The MLflow runs of a lineage, the latest last."""
DEFAULTS = "defaults"
"""The template whose defaults a trial has."""
JOB = "job"
"""What a trial of a sweep's end does."""
PUBLISHED = "published"
"""What came of registering the best: pipeline.Trained as a dict."""

MAX_TRIES = 6
PATIENCE = 1800.0
"""Seconds for which a database or a tracking server may be away."""
REGISTERING = 30.0
"""Seconds of a budget that are kept for exporting and registering the best."""
GRACE = 4
"""Missing heartbeats after which a worker counts as dead."""

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Storage(RDBStorage):
    """Optuna's database, whose heartbeats outlive a lost connection."""

    def record_heartbeat(self, trial_id: int) -> None:
        """A heartbeat that cannot be written is left out: raised in its thread, it would end all later ones."""
        with contextlib.suppress(SQLAlchemyError, StorageInternalError):
            super().record_heartbeat(trial_id)


_retry = RetryHeartbeatStaleTrialCallback(max_retry=MAX_TRIES - 1, inherit_intermediate_values=True)


def storage(url: str, heartbeat: int) -> Storage:
    """The database at `url`, made where it is not there. Raises UsageError for what is no such URL, UnreachableError."""
    try:
        sqlite = sqlalchemy.make_url(url).drivername.startswith("sqlite")
        # A connection that the server has closed is noticed and opened anew; SQLite's writers wait for one another.
        engine: dict[str, Any] = (
            {"connect_args": {"timeout": 120}} if sqlite else {"pool_pre_ping": True}
        )
        return Storage(
            url,
            engine,
            heartbeat_interval=heartbeat,
            grace_period=GRACE * heartbeat,
            heartbeat_stale_trial_callback=_retry,
        )
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise UsageError(
            f"storage={url!r} is no database: write sqlite:///FILE or postgresql://USER@HOST/DATABASE ({error})"
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UnreachableError(f"storage {hidden(url)} does not answer: {reason}") from error


def hidden(url: str) -> str:
    """The URL without its password."""
    return sqlalchemy.make_url(url).render_as_string(hide_password=True)


class SeededSampler(BaseSampler):
    """A sampler that depends on the sweep's seed and the trial's number, not on which worker asks, nor on whether one was restarted."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._inner = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Makes the trial's own sampler."""
        self._inner = self._make(
            int(np.random.SeedSequence((self._seed, trial.number)).generate_state(1)[0])
        )
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the inner sampler."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the inner sampler."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the inner sampler."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the inner sampler."""
        self._inner.after_trial(study, trial, state, values)


def sampler(kind: str, seed: int, wanted: int, conditional: bool) -> BaseSampler:
    """TPE after a quarter of the trials (4 to 10) at random, or random; `conditional` where templates have parameters of their own."""
    if kind == "random":
        return SeededSampler(lambda number: RandomSampler(seed=number), seed)
    startup = min(10, max(4, wanted // 4))
    return SeededSampler(
        lambda number: TPESampler(
            seed=number,
            n_startup_trials=startup,
            multivariate=True,
            group=conditional,
            constant_liar=True,
        ),
        seed,
    )


def pruner(kind: str, num_epochs: int) -> BasePruner:
    """What stops trials of `num_epochs` epochs early; benchmarks/pruners.py shows what each saves."""
    first = max(1, num_epochs // 12)
    if kind == "asha":  # halving saves less than Optuna's quartering, but loses nothing
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
    if kind == "hyperband":
        return HyperbandPruner(min_resource=first, max_resource=num_epochs, reduction_factor=2)
    if kind == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, num_epochs // 4))
    return NopPruner()


def tools(plan: Plan) -> tuple[BaseSampler, BasePruner]:
    """The plan's sampler and pruner."""
    chosen = sampler(
        plan.sweep.sampler,
        plan.options.seed,
        plan.sweep.trials,
        conditional=len(plan.templates) > 1,
    )
    return chosen, pruner(plan.sweep.pruner, plan.num_epochs)


First = Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Parameters and user attributes of trials that wait from the start."""


def opened(
    name: str, store: Storage, sampler: BaseSampler, pruner: BasePruner, first: First
) -> tuple[Study, bool]:
    """The study `name`, made with the trials `first` where it is not there, and whether this call made it; of several at once, one does."""
    made = True
    try:
        study = optuna.create_study(
            storage=store, study_name=name, sampler=sampler, pruner=pruner, direction="maximize"
        )
    except DuplicatedStudyError:
        made = False
        study = optuna.load_study(study_name=name, storage=store, sampler=sampler, pruner=pruner)
        wait_until(lambda: len(study.get_trials(deepcopy=False)) >= len(first))
    # Who made it may have been killed before it had them all.
    for params, attributes in first[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial(dict(params), user_attrs=dict(attributes))
    return study, made


def wait_until(there: Callable[[], bool]) -> None:
    """Waits for what another command is about to do, but not for one that was killed before."""
    until = time.monotonic() + 30
    while not there() and time.monotonic() < until:
        time.sleep(0.5)


def trials(study: Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials (of these states), patiently: whoever asks, a connection that is lost meanwhile ends no sweep."""
    return patiently(lambda: study.get_trials(deepcopy=False, states=states or None))


def lineages(study: Study) -> list[list[FrozenTrial]]:
    """Each trial with its retries, in the order of their numbers, without those that were one too many."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in trials(study):
        if EXCESS not in trial.user_attrs:
            root = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
            found.setdefault(trial.number if root is None else root, []).append(trial)
    return [found[root] for root in sorted(found)]


def lost(lineage: Sequence[FrozenTrial]) -> bool:
    """Whether the last worker of a lineage died or gave it back, and it waits to be queued again."""
    last = lineage[-1]
    return (
        last.state is TrialState.FAIL
        and FAILURE not in last.user_attrs
        and len(lineage) < MAX_TRIES
    )


def settled(lineage: Sequence[FrozenTrial]) -> bool:
    """Whether nothing more comes of a lineage."""
    return lineage[-1].state.is_finished() and not lost(lineage)


def failure(lineage: Sequence[FrozenTrial]) -> str:
    """Why a lineage failed."""
    return str(lineage[-1].user_attrs.get(FAILURE) or f"its worker died {len(lineage)} times")


def step(study: Study, wanted: int) -> str:
    """What a worker does next: `start` a trial, `wait` for others', which may come back, or `end`."""
    counted = lineages(study)[:wanted]
    if len(counted) < wanted or any(lineage[-1].state is TrialState.WAITING for lineage in counted):
        return "start"
    return "end" if all(map(settled, counted)) else "wait"


def one_too_many(study: Study, number: int, wanted: int) -> bool:
    """Whether the trial is beyond the wanted ones, or the second retry of one failure."""
    everything = lineages(study)
    place, lineage = next(
        (place, group)
        for place, group in enumerate(everything)
        if any(trial.number == number for trial in group)
    )
    twin = any(trial.number < number and trial.state is not TrialState.FAIL for trial in lineage)
    return place >= wanted or twin


def repair(study: Study, heartbeat: int) -> None:
    """Queues again what died. Any number of processes may call it at any time."""
    optuna.storages.fail_stale_trials(study)
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        # A worker that was killed between taking a trial and its first heartbeat is never stale to Optuna.
        silent = (
            trial.datetime_start is not None
            and (now - trial.datetime_start).total_seconds() > GRACE * heartbeat
        )
        if silent and trial.user_attrs.get(BEGUN) != trial.number:
            with contextlib.suppress(ValueError):  # another process was faster
                study.tell(trial.number, state=TrialState.FAIL)
    for lineage in lineages(study):
        if lost(lineage):
            _retry(study, lineage[-1])


def seconds(study: Study, *states: TrialState) -> float:
    """The median time that trials of these states took; 0 where there are none."""
    durations = [trial.duration for trial in trials(study, *states)]
    taken = [duration.total_seconds() for duration in durations if duration is not None]
    return statistics.median(taken) if taken else 0.0


def overdue(study: Study, plan: Plan, ahead: float = 0.0) -> bool:
    """Whether the budget, less the time for the sweep's end, is over, or will be `ahead` seconds from now."""
    if plan.deadline is None:
        return False
    confirming = (
        2 * plan.sweep.confirm * seconds(study, TrialState.COMPLETE) / max(1, plan.sweep.workers)
    )
    return time.time() + ahead > plan.deadline - confirming - REGISTERING


def too_late(study: Study, plan: Plan) -> bool:
    """Whether a trial that begins now would not end in time, going by those so far."""
    return overdue(study, plan, seconds(study, TrialState.COMPLETE, TrialState.PRUNED))


class TakenOverError(BaseException):
    """The trial is another's by now. No Exception: neither it nor its run has failed, and no more is to be told of it here."""


T = TypeVar("T")


def patiently(call: Callable[[], T], pause: float = 1.0) -> T:
    """What `call` returns, tried again while a database or the tracking server is away, for up to half an hour.

    Raises TakenOverError where it tells of a trial that was taken for dead.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except UpdateFinishedTrialError as error:
            raise TakenOverError(
                "its worker was silent for four heartbeats; the sweep goes on from this trial's checkpoint"
            ) from error
        except (SQLAlchemyError, StorageInternalError, UnreachableError):
            if time.monotonic() > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 30.0)
