"""The trials of a sweep, read from its Optuna study: which count, and what is left to do.

The state of a sweep is in Optuna's database and nowhere else, so that any command on any machine
can resume it. A trial whose worker died is failed by its missing heartbeats and queued again, under
a new number, with the same parameters. A trial with its retries is a *lineage*; `wanted` lineages
make a sweep. Which trial belongs and which is surplus follows from the trial numbers alone, so that
workers agree without exchanging messages: of all lineages the first `wanted` count, and within a
lineage the first retry after each failure.
"""

import contextlib
import datetime
import enum
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from detreg.sweeps.plan import Plan
from detreg.sweeps.storage import (
    GRACE_HEARTBEATS,
    MAX_TRIES,
    StudyStorage,
    requeue_trial,
    retry_while_unreachable,
)

# Names of user attributes. Studies in databases have them, so the texts must not change.
SWEEP_RUN_ATTR = "run"
"""Of a study: the MLflow run of its sweep."""
BEGUN_ATTR = "begun"
"""Of a trial: its own number, once a worker has begun it. A retry inherits its predecessor's."""
FAILURE_ATTR = "failure"
"""Of a trial: why it failed for good."""
SURPLUS_ATTR = "excess"
"""Of a trial: True where it was surplus and trained nothing."""
RUNS_ATTR = "runs"
"""Of a trial: the ids of its lineage's MLflow runs, the latest last."""
DEFAULTS_ATTR = "defaults"
"""Of a trial: the name of the template whose defaults it has."""
MEMORY_ATTR = "memory"
"""Of a trial: the earlier run whose values it has, in words."""

FINISHING_SECONDS = 30.0
"""Seconds of a budget that are kept for exporting and registering the best."""
MAX_STUDY_WAIT = 30.0
"""Seconds to wait for what another command is writing. It may have been killed before."""


@dataclass(frozen=True)
class FirstTrial:
    """A trial that is queued when the study is created."""

    params: Mapping[str, object] = field(default_factory=dict)
    user_attrs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """A trial with its retries, in the order of their numbers. Surplus trials are left out."""

    trials: tuple[FrozenTrial, ...]

    def __post_init__(self) -> None:
        if not self.trials:
            raise ValueError("a lineage must have at least one trial")

    @property
    def last(self) -> FrozenTrial:
        """The latest retry, whose state is that of the lineage."""
        return self.trials[-1]

    @property
    def is_lost(self) -> bool:
        """Whether its worker died or gave the trial back, and the trial must be queued again."""
        return (
            self.last.state is TrialState.FAIL
            and FAILURE_ATTR not in self.last.user_attrs
            and len(self.trials) < MAX_TRIES
        )

    @property
    def is_settled(self) -> bool:
        """Whether the lineage has ended, so that its trial is not retried any more."""
        return self.last.state.is_finished() and not self.is_lost

    @property
    def has_failed(self) -> bool:
        """Whether the lineage has ended without a result."""
        return self.last.state is TrialState.FAIL and self.is_settled

    @property
    def failure_reason(self) -> str:
        """Why the lineage failed."""
        reason = self.last.user_attrs.get(FAILURE_ATTR)
        return str(reason) if reason else f"its worker died {len(self.trials)} times"


class NextStep(enum.Enum):
    """What a worker does next."""

    START = "start a trial"
    WAIT = "wait for the trials of other workers, which may have to be retried"
    END = "end, because every wanted lineage is settled"


def open_study(
    name: str,
    storage: StudyStorage,
    sampler: BaseSampler,
    pruner: BasePruner,
    first_trials: Sequence[FirstTrial],
) -> tuple[Study, bool]:
    """Load the study `name`, or create it with `first_trials` queued.

    Any number of commands may call this at once: one of them creates the study. Returns the study,
    and whether this call has created it.
    """
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, sampler=sampler, pruner=pruner, direction="maximize"
        )
        is_new = True
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        is_new = False
        wait_until(lambda: len(study.get_trials(deepcopy=False)) >= len(first_trials))

    # The command that created the study may have been killed before it had queued all of them.
    queued = len(study.get_trials(deepcopy=False))
    for trial in first_trials[queued:]:
        study.enqueue_trial(dict(trial.params), user_attrs=dict(trial.user_attrs))
    return study, is_new


def has_study(name: str, storage: StudyStorage) -> bool:
    """Whether the database has a study of this name."""
    return name in optuna.get_all_study_names(storage)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another command is about to write, at most MAX_STUDY_WAIT seconds."""
    give_up_at = time.monotonic() + MAX_STUDY_WAIT
    while not condition() and time.monotonic() < give_up_at:
        time.sleep(0.5)


def get_trials(study: Study, *states: TrialState) -> list[FrozenTrial]:
    """Return the trials (of these states); a connection that is lost meanwhile is retried."""
    return retry_while_unreachable(lambda: study.get_trials(deepcopy=False, states=states or None))


def get_lineages(study: Study) -> list[Lineage]:
    """Return the lineages in the order of their first trials' numbers."""
    groups: dict[int, list[FrozenTrial]] = {}
    for trial in get_trials(study):
        if SURPLUS_ATTR in trial.user_attrs:
            continue
        root = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
        first_number = trial.number if root is None else root
        groups.setdefault(first_number, []).append(trial)
    return [Lineage(tuple(groups[number])) for number in sorted(groups)]


def decide_next_step(study: Study, wanted: int) -> NextStep:
    """Return what a worker does next in a sweep of `wanted` lineages."""
    counted = get_lineages(study)[:wanted]
    if len(counted) < wanted:
        return NextStep.START
    if any(lineage.last.state is TrialState.WAITING for lineage in counted):
        return NextStep.START
    if all(lineage.is_settled for lineage in counted):
        return NextStep.END
    return NextStep.WAIT


def is_surplus(study: Study, number: int, wanted: int) -> bool:
    """Whether a trial is beyond the wanted lineages, or the second retry of one failure.

    Workers that look at the study at the same moment may start one trial too many, or queue a lost
    trial twice. Trial numbers do not change, so all workers come to the same answer.
    """
    for place, lineage in enumerate(get_lineages(study)):
        numbers = [trial.number for trial in lineage.trials]
        if number not in numbers:
            continue
        # Failed ones are the tries before. One that runs, waits or is done is the same try.
        has_earlier_twin = any(
            trial.number < number and trial.state is not TrialState.FAIL for trial in lineage.trials
        )
        return place >= wanted or has_earlier_twin
    raise ValueError(f"study {study.study_name} has no trial {number} that counts")


def requeue_lost_trials(study: Study, heartbeat: int) -> None:
    """Fail the trials whose workers are dead, and queue again every trial that was lost.

    Any number of processes may call it at any time: where two queue the same trial, the second is
    surplus.
    """
    # Optuna fails what is silent, then calls requeue_trial for it. A process that is killed between
    # the two leaves a failed trial that is queued by the loop below.
    optuna.storages.fail_stale_trials(study)
    _fail_trials_without_heartbeat(study, heartbeat)
    for lineage in get_lineages(study):
        if lineage.is_lost:
            requeue_trial(study, lineage.last)


def _fail_trials_without_heartbeat(study: Study, heartbeat: int) -> None:
    """Fail trials whose worker died between taking them and its first heartbeat.

    Optuna calls a trial stale only where it has a heartbeat.
    """
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        has_begun = trial.user_attrs.get(BEGUN_ATTR) == trial.number
        if has_begun or trial.datetime_start is None:
            continue
        age = (now - trial.datetime_start).total_seconds()
        if age > GRACE_HEARTBEATS * heartbeat:
            # A ValueError says that another process has failed it first.
            with contextlib.suppress(ValueError):
                study.tell(trial.number, state=TrialState.FAIL)


def compute_median_seconds(study: Study, *states: TrialState) -> float:
    """Return the median time that trials of these states took; 0 where there are none."""
    durations = [trial.duration for trial in get_trials(study, *states)]
    seconds = [duration.total_seconds() for duration in durations if duration is not None]
    return statistics.median(seconds) if seconds else 0.0


def is_overdue(study: Study, plan: Plan, ahead: float = 0.0) -> bool:
    """Whether the time for the search is over, or will be in `ahead` seconds.

    The budget has to pay for the end of the sweep too: for registering the best, and for training
    the best and the defaults `confirm` times each.
    """
    if plan.deadline is None:
        return False
    workers = max(1, plan.sweep.workers)
    trainings = 2 * plan.sweep.confirm
    confirming = trainings * compute_median_seconds(study, TrialState.COMPLETE) / workers
    return time.time() + ahead > plan.deadline - confirming - FINISHING_SECONDS


def is_too_late_to_start(study: Study, plan: Plan) -> bool:
    """Whether a trial that starts now would not end in time, going by those before it."""
    typical = compute_median_seconds(study, TrialState.COMPLETE, TrialState.PRUNED)
    return is_overdue(study, plan, ahead=typical)
