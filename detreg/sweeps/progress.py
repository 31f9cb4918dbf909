"""What the terminal shows of a sweep: a line for each trial that ends, with how far it all is."""

import time
from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from detreg.sweeps import study as studies
from detreg.sweeps.duration import format_duration
from detreg.sweeps.jobs import RetrainJob, read_job
from detreg.sweeps.plan import Plan
from detreg.sweeps.study import Lineage
from detreg.sweeps.trial_text import format_time, format_values, get_best_score


class Progress:
    """Prints the trials of a study that end while a command runs.

    Trials that had ended before are part of the counts, but get no line of their own.
    """

    def __init__(self, study: Study, plan: Plan, wanted: int) -> None:
        self._study = study
        self._plan = plan
        # Lineages beyond these are surplus, and not shown.
        self._wanted = wanted
        self._shown: set[int] = set()
        for trial in studies.get_trials(study):
            if trial.state.is_finished():
                self._shown.add(trial.number)

    def print_ended_trials(self) -> None:
        """Print a line for each trial that has ended since the last call."""
        # Read once, so that all lines of a call show the same counts.
        lineages = studies.get_lineages(self._study)[: self._wanted]
        for lineage in lineages:
            for trial in lineage.trials:
                if not trial.state.is_finished() or trial.number in self._shown:
                    continue
                self._shown.add(trial.number)
                outcome = _describe_outcome(lineage, trial, self._plan.metric)
                print(f"{outcome}  |  {self._describe_progress(lineages)}", flush=True)

    def _describe_progress(self, lineages: Sequence[Lineage]) -> str:
        """Return how many lineages have ended and how, the best so far, and the time left."""
        complete = []
        num_pruned = 0
        num_failed = 0
        for lineage in lineages:
            if lineage.last.state is TrialState.COMPLETE:
                complete.append(lineage.last)
            elif lineage.last.state is TrialState.PRUNED:
                num_pruned += 1
            elif lineage.has_failed:
                num_failed += 1

        words = [f"{len(complete)} done"]
        if num_pruned:
            words.append(f"{num_pruned} pruned")
        if num_failed:
            words.append(f"{num_failed} failed")
        if complete:
            best = max(complete, key=lambda trial: trial.value or 0.0)
            words.append(f"best {best.value:.4f} (trial {best.number})")

        num_ended = len(complete) + num_pruned + num_failed
        time_left = format_duration(self._estimate_seconds_left(num_ended))
        return ", ".join([*words, f"{time_left} left"])

    def _estimate_seconds_left(self, num_ended: int) -> float:
        """Return the time that the other lineages take if they take as long as those so far.

        The deadline of a budget ends it sooner.
        """
        # By default (0) there is one worker for each GPU; a machine with several takes less time.
        workers = max(1, self._plan.sweep.workers)
        typical = studies.compute_median_seconds(
            self._study, TrialState.COMPLETE, TrialState.PRUNED
        )
        seconds = (self._wanted - num_ended) * typical / workers
        if self._plan.deadline is None:
            return seconds
        return max(0.0, min(seconds, self._plan.deadline - time.time()))


def _describe_outcome(lineage: Lineage, trial: FrozenTrial, metric: str) -> str:
    """Return what came of one try of a lineage."""
    name = _name_trial(trial)
    values = format_values(trial.params)
    num_epochs = len(trial.intermediate_values)
    time_taken = format_time(trial)
    effort = f"{num_epochs} epochs"
    if time_taken:
        effort += f", {time_taken}"

    if trial.state is TrialState.COMPLETE:
        return f"{name}  {metric} {trial.value:.4f}  {values}  {effort}"
    if trial.state is TrialState.PRUNED:
        score = get_best_score(trial) or 0.0
        return f"{name}  pruned at {metric} {score:.4f}  {values}  {effort}"
    # A failed try is final only if it is the lineage's last and is not retried.
    if trial is lineage.last and lineage.is_settled:
        return f"{name}  failed: {lineage.failure_reason}  {values}"
    return f"{name}  lost its worker after {num_epochs} epochs and is retried under a new number"


def _name_trial(trial: FrozenTrial) -> str:
    """Return a trial's number, or its final job."""
    job = read_job(trial)
    if job is None:
        return f"trial {trial.number}"
    if isinstance(job, RetrainJob):
        return f"{job.side} with seed {job.seed}"
    return "registering the best"
