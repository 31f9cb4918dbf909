"""The story of a sweep: from ranges to the best model, registered, and compared with the defaults."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.study import Study
from optuna.trial import TrialState

from detreg.data.dataset import load_dataset
from detreg.environment import set_mlflow_defaults
from detreg.errors import NotFoundError, UsageError
from detreg.params import to_texts
from detreg.pipeline import describe
from detreg.sweeps import pool
from detreg.sweeps import study as studies
from detreg.sweeps.duration import format_duration
from detreg.sweeps.finish import SweepResult, concluded
from detreg.sweeps.plan import Plan, make_plan
from detreg.sweeps.progress import Progress
from detreg.sweeps.request import SweepRequest, make_request, parse_templates
from detreg.tracking import runs
from detreg.tracking.runs import Run


def sweep(template: str, **values: Any) -> dict[str, Any]:
    """Searches the hyperparameters of a template, or of several with commas between; `values` as for `detreg sweep`.

    Returns what `detreg sweep --json` prints. Workers are processes: in a script, call it under `if __name__ == "__main__":`. Raises the
    errors of detreg.errors.
    """
    set_mlflow_defaults()
    return asdict(run(make_request(parse_templates(template), values)))


def run(request: SweepRequest) -> SweepResult:
    """The story itself. Whatever can be refused is refused before the first trial; a restart with the same request resumes it."""
    begun = time.time()
    dataset = load_dataset(request.options.data)
    print(describe(dataset), flush=True)
    storage = request.sweep.storage or _beside_mlflows()
    plan = make_plan(request, dataset.digest, storage)
    for sentence in plan.space.describe_moved_defaults():
        print(sentence)
    print(f"Searches {plan.space}", flush=True)
    _not_mlflows(plan.storage)
    store = studies.storage(plan.storage, plan.sweep.heartbeat)
    pool.checked(pool.server(), plan)
    study, made = _opened(plan, store)
    with _run_of(study, made, plan) as active:
        budget = request.budget_seconds
        deadline = None if budget is None else begun + budget
        plan = plan.start(study.user_attrs["run"], deadline)
        _announce(active, study, plan)
        record(active, plan)
        logs = active.folder / "logs"
        logs.mkdir()
        try:
            pool.WorkerPool(plan, study, plan.sweep.trials, "search", logs).run(
                Progress(study, plan, plan.sweep.trials)
            )
        except KeyboardInterrupt:
            print("Stops: registers the best so far; Ctrl-C again leaves that out", flush=True)
            concluded(active, replace(plan, sweep=replace(plan.sweep, confirm=0)), study, logs)
            raise
        finally:
            with contextlib.suppress(Exception):
                studies.repair(study, plan.sweep.heartbeat)
                _close_orphans(study, plan.parent)
                active.log_file(logs, "logs")
        return concluded(active, plan, study, logs)


def _beside_mlflows() -> str:
    """A file where MLflow's database is a file, since `mlflow run` may work in a folder that is gone afterwards; else in this folder."""
    tracking = (
        sqlalchemy.make_url(runs.get_tracking_uri())
        if "sqlite:" in runs.get_tracking_uri()
        else None
    )
    folder = (
        Path(tracking.database).parent if tracking is not None and tracking.database else Path()
    )
    return f"sqlite:///{folder.absolute() / 'detreg-sweeps.db'}"


def _not_mlflows(url: str) -> None:
    if url == runs.get_tracking_uri():
        raise UsageError(
            f"storage={studies.hidden(url)} is MLflow's own database, and both would migrate it: give the sweep one of its own"
        )


def _opened(plan: Plan, store: studies.Storage) -> tuple[Study, bool]:
    """The plan's study, and whether it is new; the defaults of each template are its first trials."""
    first = [
        (plan.space.make_first_trial(template.name), {studies.DEFAULTS: template.name})
        for template in plan.templates
    ]
    return studies.opened(plan.name, store, *studies.tools(plan), first)


@contextlib.contextmanager
def _run_of(study: Study, made: bool, plan: Plan) -> Iterator[Run]:
    """The MLflow run of this command: that of the study, taken up again, unless `mlflow run` has made another one."""
    if not made:
        studies.wait_until(lambda: "run" in study.user_attrs)
    first = study.user_attrs.get("run")
    try:
        first = first and runs.get_run(first).info.run_id
    except NotFoundError:  # deleted since
        first = None
    own = "MLFLOW_RUN_ID" in os.environ
    tags = {
        runs.STUDY: plan.name,
        runs.TEMPLATE: ",".join(plan.space.templates),
        runs.DIGEST: plan.dataset_digest,
    }
    tags |= {runs.PARENT: first} if first and own else {}
    with runs.start_run(
        plan.options.run_name or plan.name, tags, run_id=None if own else first
    ) as active:
        if not first:
            study.set_user_attr("run", active.id)
        yield active


def _announce(active: Run, study: Study, plan: Plan) -> None:
    ended = sum(map(studies.settled, studies.lineages(study)))
    print(
        f"MLflow run {active.id} in {runs.get_tracking_uri()}; study {plan.name} in {studies.hidden(plan.storage)}"
    )
    if plan.parent != active.id:
        print(f"The sweep is that of run {plan.parent}, under which its trials are")
    if ended:
        print(f"Goes on with the study: {ended} of {plan.sweep.trials} trials have ended")
    if plan.deadline is not None:
        print(f"Ends in {format_duration(plan.deadline - time.time())}")


def record(active: Run, plan: Plan) -> None:
    """Logs what the sweep is told, without the password of its database."""
    told = to_texts(plan.options) | to_texts(plan.sweep) | {"storage": studies.hidden(plan.storage)}
    fixed = {
        f"{name}.{key}": str(value)
        for name, part in plan.space.templates.items()
        for key, value in part.fixed.items()
    }
    active.log_params(told | fixed)
    active.log_text(str(plan.space), "space.txt")


def _close_orphans(study: Study, parent: str) -> None:
    """Ends the MLflow runs of trials whose worker was killed, so that none stands as running for ever."""
    running = {
        trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    }
    for orphan in runs.list_running_children(parent):
        if (
            orphan.data.tags.get(runs.STUDY) == study.study_name
            and int(orphan.data.tags.get(runs.TRIAL, -1)) not in running
        ):
            runs.end_run(orphan.info.run_id, "its worker died")
