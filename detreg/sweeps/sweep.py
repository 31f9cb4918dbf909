"""The story of a sweep: from ranges to the best model, registered, and compared with the defaults."""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.study import Study
from optuna.trial import TrialState

from detreg import templates, torchrun
from detreg.data.dataset import load
from detreg.environment import set_mlflow_defaults
from detreg.errors import NotFoundError, UsageError
from detreg.options import RunOptions, SweepOptions
from detreg.params import build, get_params, to_texts
from detreg.pipeline import describe
from detreg.sweeps import pool, space
from detreg.sweeps import study as studies
from detreg.sweeps.finish import SweepResult, concluded
from detreg.sweeps.plan import Plan
from detreg.sweeps.progress import Progress, minutes
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.tracking.runs import Run


def sweep(template: str, **values: Any) -> dict[str, Any]:
    """Searches the hyperparameters of a template, or of several with commas between; `values` as for `detreg sweep`.

    Returns what `detreg sweep --json` prints. Workers are processes: in a script, call it under `if __name__ == "__main__":`. Raises the
    errors of detreg.errors.
    """
    set_mlflow_defaults()
    return asdict(run(planned(named(template), values)))


def named(text: str) -> tuple[Template, ...]:
    """The templates of a text with commas. Raises UsageError."""
    return tuple(
        {
            template.name: template
            for template in map(templates.find_template, text.replace(" ", "").split(","))
        }.values()
    )


def planned(chosen: tuple[Template, ...], values: Mapping[str, Any]) -> Plan:
    """The plan of a sweep from texts or Python values, before its dataset is read. Raises UsageError with every problem at once."""
    problems: list[str] = []
    if torchrun.get_world_size() > 1:
        problems.append(
            "a sweep has its own workers, one for each GPU: start it without torchrun, and give workers="
        )
    built: list[Any] = []
    for cls in (RunOptions, SweepOptions):
        try:
            built.append(
                build(
                    cls, {name: value for name, value in values.items() if name in get_params(cls)}
                )
            )
        except UsageError as error:
            problems += error.problems
    rest = {
        name: value
        for name, value in values.items()
        if name not in get_params(RunOptions) | get_params(SweepOptions)
    }
    try:
        text = None if problems else built[1].space
        searched = space.space(chosen, text, rest)
        if not problems and built[1].budget:
            in_seconds(built[1].budget)
    except UsageError as error:
        problems += error.problems
    if problems:
        raise UsageError(problems)
    return Plan(searched, built[0], built[1], dataset_digest="", storage=built[1].storage or "")


def in_seconds(text: str) -> float:
    """A budget such as 1h30m, in seconds. Raises UsageError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    found = sum(float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not found:
        raise UsageError(f"budget={text} is no time: write it as 90m, 2h or 1h30m")
    return found


def run(plan: Plan) -> SweepResult:
    """The story itself. Whatever can be refused is refused before the first trial; a restart with the same plan goes on."""
    begun = time.time()
    dataset = load(plan.options.data)
    print(describe(dataset), flush=True)
    plan = replace(plan, dataset_digest=dataset.digest, storage=plan.storage or _beside_mlflows())
    for sentence in plan.space.moved():
        print(sentence)
    print(f"Searches {plan.space}", flush=True)
    _not_mlflows(plan.storage)
    store = studies.storage(plan.storage, plan.sweep.heartbeat)
    pool.checked(pool.server(), plan)
    study, made = _opened(plan, store)
    with _run_of(study, made, plan) as active:
        plan = plan.started(
            study.user_attrs["run"],
            begun + in_seconds(plan.sweep.budget) if plan.sweep.budget else None,
        )
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
        (plan.space.defaults(template.name), {studies.DEFAULTS: template.name})
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
        runs.TEMPLATE: ",".join(plan.space.dimensions),
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
        print(f"Ends in {minutes(plan.deadline - time.time())}")


def record(active: Run, plan: Plan) -> None:
    """Logs what the sweep is told, without the password of its database."""
    told = to_texts(plan.options) | to_texts(plan.sweep) | {"storage": studies.hidden(plan.storage)}
    fixed = {
        f"{name}.{key}": str(value)
        for name, values in plan.space.fixed.items()
        for key, value in values.items()
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
