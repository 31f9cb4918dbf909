"""What the terminal shows of a sweep: a line for each trial that has ended, with how far it all is."""

import time
from collections.abc import Sequence

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from detreg.sweeps import study as studies
from detreg.sweeps.duration import format_duration
from detreg.sweeps.jobs import RetrainJob, read_job
from detreg.sweeps.plan import Plan
from detreg.sweeps.study import Lineage


class Progress:
    """Prints what is new each time that it is called. Trials that had ended before are counted, not told."""

    def __init__(self, study: Study, plan: Plan, wanted: int) -> None:
        self.study = study
        self.plan = plan
        self.wanted = wanted
        self.begun = time.monotonic()
        self.told = {
            trial.number for trial in studies.get_trials(study) if trial.state.is_finished()
        }

    def __call__(self) -> None:
        """Tells what has ended since."""
        groups = studies.get_lineages(self.study)[: self.wanted]
        fresh = [
            (group, trial)
            for group in groups
            for trial in group.trials
            if trial.state.is_finished() and trial.number not in self.told
        ]
        for group, trial in fresh:
            self.told.add(trial.number)
            print(f"{self._what(group, trial)}  |  {self._so_far(groups)}", flush=True)

    def _what(self, group: Lineage, trial: FrozenTrial) -> str:
        name = name_trial(trial)
        epochs = len(trial.intermediate_values)
        took = f", {format_duration(trial.duration.total_seconds())}" if trial.duration else ""
        if trial.state is TrialState.COMPLETE:
            return f"{name}  mAP {trial.value:.4f}  {format_values(trial)}  {epochs} epochs{took}"
        if trial.state is TrialState.PRUNED:
            return f"{name}  pruned at mAP {max(trial.intermediate_values.values(), default=0):.4f}  {format_values(trial)}  {epochs} epochs{took}"
        if trial is group.last and group.is_settled:
            return f"{name}  failed: {group.failure_reason}  {format_values(trial)}"
        return f"{name}  lost its worker after {epochs} epochs and goes on under another number"

    def _so_far(self, groups: Sequence[Lineage]) -> str:
        last = [group.last for group in groups]
        complete = [trial for trial in last if trial.state is TrialState.COMPLETE]
        counts = {
            "done": len(complete),
            "pruned": sum(trial.state is TrialState.PRUNED for trial in last),
            "failed": sum(group.has_failed for group in groups),
        }
        texts = [f"{count} {word}" for word, count in counts.items() if count or word == "done"]
        if complete:
            best = max(complete, key=lambda trial: trial.value or 0.0)
            texts.append(f"best {best.value:.4f} (trial {best.number})")
        return ", ".join([*texts, f"{format_duration(self._left(sum(counts.values())))} left"])

    def _left(self, ended: int) -> float:
        """Seconds, from how long a trial took so far, and from the budget."""
        running = max(1, self.plan.sweep.workers)
        typical = studies.compute_median_seconds(self.study, TrialState.COMPLETE, TrialState.PRUNED)
        left = (self.wanted - ended) * typical / running
        return (
            left
            if self.plan.deadline is None
            else max(0.0, min(left, self.plan.deadline - time.time()))
        )


def name_trial(trial: FrozenTrial) -> str:
    """A trial's number, or what it does at a sweep's end."""
    job = read_job(trial)
    if job is None:
        return f"trial {trial.number}"
    if isinstance(job, RetrainJob):
        return f"{job.side} with seed {job.seed}"
    return "registering the best"


def format_values(trial: FrozenTrial) -> str:
    """The values of a trial in a few words."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in trial.params.items()
    )
