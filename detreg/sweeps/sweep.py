"""The story of a sweep: from ranges to the best model, registered, and compared with the defaults."""

import contextlib
import json
import math
import os
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from detreg import templates
from detreg.data.dataset import load
from detreg.environment import set_defaults
from detreg.errors import NotFoundError, StoppedError, UsageError
from detreg.params import build, changed, declared, plain, texts
from detreg.pipeline import describe
from detreg.sweeps import crew, space
from detreg.sweeps import study as studies
from detreg.sweeps.plan import Plan
from detreg.sweeps.progress import Progress, minutes
from detreg.templates.template import CommonParams, RunOptions, SweepOptions, Template
from detreg.tracking import runs
from detreg.tracking.runs import Run


@dataclass(frozen=True)
class Swept:
    """The end of a sweep, as `--json` prints it. `mAP` is the best trial's on the val split, of its best epoch."""

    run_id: str
    study: str
    trials: int
    complete: int
    pruned: int
    failed: int
    best_trial: int
    best_run_id: str
    template: str
    mAP: float
    hyperparameters: dict[str, str]
    """Those that are not the template's defaults, as text."""
    defaults_mAP: float | None
    comparison: str
    model_name: str | None
    model_version: str | None
    alias: str | None
    reason: str


def sweep(template: str, **values: Any) -> dict[str, Any]:
    """Searches the hyperparameters of a template, or of several with commas between; `values` as for `detreg sweep`.

    Returns what `detreg sweep --json` prints. Workers are processes: in a script, call it under `if __name__ == "__main__":`. Raises the
    errors of detreg.errors.
    """
    set_defaults()
    return asdict(run(planned(named(template), values)))


def named(text: str) -> tuple[Template, ...]:
    """The templates of a text with commas. Raises UsageError."""
    return tuple({template.name: template for template in map(templates.find, text.replace(" ", "").split(","))}.values())


def planned(chosen: tuple[Template, ...], values: Mapping[str, Any]) -> Plan:
    """The plan of a sweep from texts or Python values, before its dataset is read. Raises UsageError with every problem at once."""
    problems: list[str] = []
    built: list[Any] = []
    for cls in (RunOptions, SweepOptions):
        try:
            built.append(build(cls, {name: value for name, value in values.items() if name in declared(cls)}))
        except UsageError as error:
            problems += error.problems
    rest = {name: value for name, value in values.items() if name not in declared(RunOptions) | declared(SweepOptions)}
    try:
        text = None if problems else built[1].space
        searched = space.space(chosen, text, rest)
        if not problems and built[1].budget:
            in_seconds(built[1].budget)
    except UsageError as error:
        problems += error.problems
    if problems:
        raise UsageError(problems)
    return Plan(searched, built[0], built[1], dataset_digest="")


def in_seconds(text: str) -> float:
    """A budget such as 1h30m, in seconds. Raises UsageError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    found = sum(float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not found:
        raise UsageError(f"budget={text} is no time: write it as 90m, 2h or 1h30m")
    return found


def run(plan: Plan) -> Swept:
    """The story itself. Whatever can be refused is refused before the first trial; a restart with the same plan goes on."""
    begun = time.time()
    dataset = load(plan.options.data)
    print(describe(dataset), flush=True)
    plan = replace(plan, dataset_digest=dataset.digest)
    for sentence in plan.space.moved():
        print(sentence)
    print(f"Searches {plan.space}", flush=True)
    _not_mlflows(plan.sweep.storage)
    store = studies.storage(plan.sweep.storage, plan.sweep.heartbeat)
    crew.checked(crew.server(), plan)
    study, made = _opened(plan, store)
    with _run_of(study, made, plan) as active:
        budget = in_seconds(plan.sweep.budget) if plan.sweep.budget else math.inf
        plan = plan.started(study.user_attrs["run"], begun + budget if plan.sweep.budget else None)
        _announce(active, study, plan)
        record(active, plan)
        logs = active.folder / "logs"
        logs.mkdir()
        try:
            crew.Crew(plan, study, plan.sweep.trials, "search", logs).run(Progress(study, plan, plan.sweep.trials))
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


def _not_mlflows(url: str) -> None:
    if url == runs.tracking_uri():
        raise UsageError(
            f"storage={studies.hidden(url)} is MLflow's own database, and both would migrate it: give the sweep one of its own"
        )


def _opened(plan: Plan, store: studies.Storage) -> tuple[Study, bool]:
    """The plan's study, and whether it is new; the defaults of each template are its first trials."""
    several = len(plan.templates) > 1
    first = [(plan.space.defaults(template.name), {studies.DEFAULTS: template.name}) for template in plan.templates]
    sampler = studies.sampler(plan.sweep.sampler, plan.options.seed, plan.sweep.trials, several)
    return studies.opened(plan.name, store, sampler, _pruner(plan), first)


def _pruner(plan: Plan) -> Any:
    return studies.pruner(plan.sweep.pruner, max(plan.defaults(template).num_epochs for template in plan.templates))


@contextlib.contextmanager
def _run_of(study: Study, made: bool, plan: Plan) -> Iterator[Run]:
    """The MLflow run of this command: that of the study, taken up again, unless `mlflow run` has made another one."""
    if not made:
        studies.wait_until(lambda: "run" in study.user_attrs)
    first = study.user_attrs.get("run")
    try:
        first = first and runs.find(first).info.run_id
    except NotFoundError:  # deleted since
        first = None
    own = "MLFLOW_RUN_ID" in os.environ
    tags = {runs.STUDY: plan.name, runs.TEMPLATE: ",".join(plan.space.dimensions), runs.DIGEST: plan.dataset_digest}
    tags |= {runs.PARENT: first} if first and own else {}
    with runs.start(plan.options.run_name or plan.name, tags, run_id=None if own else first) as active:
        if not first:
            study.set_user_attr("run", active.id)
        yield active


def _announce(active: Run, study: Study, plan: Plan) -> None:
    ended = sum(map(studies.settled, studies.lineages(study)))
    print(f"MLflow run {active.id} in {runs.tracking_uri()}; study {plan.name} in {studies.hidden(plan.sweep.storage)}")
    if plan.parent != active.id:
        print(f"The sweep is that of run {plan.parent}, under which its trials are")
    if ended:
        print(f"Goes on with the study: {ended} of {plan.sweep.trials} trials have ended")
    if plan.deadline is not None:
        print(f"Ends in {minutes(plan.deadline - time.time())}")


def record(active: Run, plan: Plan) -> None:
    """Logs what the sweep is told, without the password of its database."""
    told = texts(plan.options) | texts(plan.sweep) | {"storage": studies.hidden(plan.sweep.storage)}
    fixed = {f"{name}.{key}": str(value) for name, values in plan.space.fixed.items() for key, value in values.items()}
    active.log_params(told | fixed)
    active.log_text(str(plan.space), "space.txt")


def _close_orphans(study: Study, parent: str) -> None:
    """Ends the MLflow runs of trials whose worker was killed, so that none stands as running for ever."""
    running = {trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
    for orphan in runs.nested(parent):
        if orphan.data.tags.get(runs.STUDY) == study.study_name and int(orphan.data.tags.get(runs.TRIAL, -1)) not in running:
            runs.close(orphan.info.run_id, "its worker died")


def concluded(active: Run, plan: Plan, study: Study, logs: Path) -> Swept:
    """Registers the best trial, trains it and the defaults with other seeds where that is wanted, and writes the report.

    Raises StoppedError where no trial is complete.
    """
    groups = studies.lineages(study)[: plan.sweep.trials]
    complete = [group[-1] for group in groups if group[-1].state is TrialState.COMPLETE]
    if not complete:
        reasons = [f"trial {group[-1].number}: {studies.failure(group)}" for group in groups if studies.settled(group)]
        raise StoppedError(["no trial is complete yet: the same command goes on", *reasons[:5]])
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))
    template, params = chosen(plan, best)
    defaults = next((trial for trial in complete if trial.user_attrs.get(studies.DEFAULTS) == template.name), None)
    print(f"Best: trial {best.number} with mAP {best.value:.4f}; registers it", flush=True)
    end = _end(plan, study, best, defaults, logs)
    results = [group[-1] for group in studies.lineages(end)]
    published = next((trial for trial in results if trial.user_attrs[studies.JOB]["does"] == "publish"), None)
    outcome = published.user_attrs.get("published", {}) if published else {}
    unpublished = "" if outcome or not published else studies.failure([published])
    swept = Swept(
        run_id=active.id,
        study=plan.name,
        trials=len(groups),
        complete=len(complete),
        pruned=sum(group[-1].state is TrialState.PRUNED for group in groups),
        failed=sum(group[-1].state is TrialState.FAIL and studies.settled(group) for group in groups),
        best_trial=best.number,
        best_run_id=best.user_attrs[studies.RUNS][-1],
        template=template.name,
        mAP=float(best.value or 0.0),
        hyperparameters=changed(params),
        defaults_mAP=None if defaults is None else defaults.value,
        comparison=comparison(best, defaults, results),
        model_name=outcome.get("model_name"),
        model_version=outcome.get("model_version"),
        alias=outcome.get("alias"),
        reason=outcome.get("reason") or unpublished,
    )
    _finish(active, plan, study, swept, outcome)
    return swept


def chosen(plan: Plan, trial: FrozenTrial) -> tuple[Template, CommonParams]:
    """The template and the hyperparameters of a trial."""
    template, values = plan.space.values(trial)
    return template, build(template.params, values)


def _end(plan: Plan, study: Study, best: FrozenTrial, defaults: FrozenTrial | None, logs: Path) -> Study:
    """A second study with what is left to do, so that workers share it and go on with it like the first."""
    jobs: list[dict[str, Any]] = []
    sides = {"best": best} | ({"defaults": defaults} if defaults is not None and defaults is not best else {})
    for who, trial in sides.items():
        template, params = chosen(plan, trial)
        about = {"who": who, "template": template.name, "hyperparameters": plain(params)}
        if who == "best":
            jobs.append({"does": "publish", "run_id": trial.user_attrs[studies.RUNS][-1], **about})
        seeds = range(plan.options.seed + 1, plan.options.seed + 1 + plan.sweep.confirm)
        jobs += [{"does": "train", "seed": seed, **about} for seed in seeds]
    name = f"{plan.name}, best {best.number}, confirm {plan.sweep.confirm}"
    first: studies.First = [({}, {studies.JOB: job}) for job in jobs]
    store = studies.storage(plan.sweep.storage, plan.sweep.heartbeat)
    end, _ = studies.opened(name, store, study.sampler, studies.pruner("none", 1), first)
    unhurried = replace(plan, deadline=None)
    crew.Crew(unhurried, end, len(jobs), "conclude", logs).run(Progress(end, unhurried, len(jobs)))
    return end


def comparison(best: FrozenTrial, defaults: FrozenTrial | None, results: list[FrozenTrial]) -> str:
    """The best against the defaults in a sentence, measured on other seeds where there are some."""
    if defaults is None:
        return "the defaults were not trained to their end, so there is nothing to compare with"
    if defaults.number == best.number:
        return f"no trial beats the defaults, whose mAP is {best.value:.4f}"
    ours, theirs = (_retrained(results, who) for who in ("best", "defaults"))
    if not ours or not theirs:
        gain = (best.value or 0) - (defaults.value or 0)
        return f"mAP {best.value:.4f} against {defaults.value:.4f} of the defaults, {gain:+.4f}, from one seed: confirm=3 would measure it"
    gain = statistics.mean(ours) - statistics.mean(theirs)
    seeds = f"{len(ours)} and {len(theirs)} other seeds"
    sides = f"mAP {statistics.mean(ours):.4f} against {statistics.mean(theirs):.4f} of the defaults, trained again with {seeds}"
    if len(ours) < 2 or len(theirs) < 2:
        return f"{sides}: {gain:+.4f}; two seeds at least would say how far that can be trusted"
    error = math.sqrt(statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs))
    return f"{sides}: {'better' if gain > 0 else 'worse'} than the defaults by {abs(gain):.4f} ± {error:.4f} (standard error)"


def _retrained(results: list[FrozenTrial], who: str) -> list[float]:
    jobs = ((trial.user_attrs[studies.JOB], trial.value) for trial in results)
    return [value for job, value in jobs if job["does"] == "train" and job["who"] == who and value is not None]


def _finish(active: Run, plan: Plan, study: Study, swept: Swept, outcome: Mapping[str, Any]) -> None:
    """The results into the sweep's run, and into this command's where that is another."""
    from detreg.sweeps.report import write_report

    folder = active.folder / "report"
    write_report(folder, plan, study, swept)
    numbers = {name: float(outcome[name]) for name in ("mAP", "mAP_50", "mAP_75") if name in outcome}
    numbers |= {"val/mAP_best": swept.mAP, "trials/complete": swept.complete, "trials/pruned": swept.pruned, "trials/failed": swept.failed}
    numbers |= {} if swept.defaults_mAP is None else {"val/mAP_defaults": swept.defaults_mAP}
    for run in {active.id, plan.parent}:
        handle = Run(run, active.folder)
        handle.log_metrics(numbers)
        handle.set_tags({"detreg.best_eid": swept.best_run_id, "detreg.comparison": swept.comparison})
        handle.log_text(json.dumps(asdict(swept), indent=2), "sweep.json")
        handle.log_file(folder, "report")
    if plan.parent != active.id:
        runs.close(plan.parent)
