"""A sweep from its request to the best model, registered and compared with the defaults."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy
from optuna.study import Study
from optuna.trial import TrialState

from detreg.data.calibration import check_calibration
from detreg.data.dataset import Dataset, load_dataset
from detreg.data.summary import describe_dataset
from detreg.environment import set_mlflow_defaults
from detreg.errors import NotFoundError, UsageError
from detreg.inspection.run_page import log_page_of_run, write_page_of_run
from detreg.params import to_texts
from detreg.progress import show_progress
from detreg.redaction import redact
from detreg.signals import explain_interruption
from detreg.sweeps import study as studies
from detreg.sweeps.duration import format_duration
from detreg.sweeps.finish import finish_sweep
from detreg.sweeps.jobs import Stage
from detreg.sweeps.memory import RememberedValues, remember_values
from detreg.sweeps.plan import Plan, make_plan
from detreg.sweeps.pool import WorkerPool, check_initial_weights, make_context
from detreg.sweeps.precisions import agree_on_precisions, prepare_precisions
from detreg.sweeps.progress import Progress
from detreg.sweeps.request import SweepRequest, make_request, parse_templates
from detreg.sweeps.result import SweepResult
from detreg.sweeps.samplers import make_search_pruner, make_search_sampler
from detreg.sweeps.storage import StudyStorage, open_storage
from detreg.sweeps.study import FirstTrial
from detreg.sweeps.trial_text import format_values
from detreg.tracking import experiments, model_hints, preflight, runs
from detreg.tracking.run_names import choose_run_name
from detreg.tracking.runs import Run

_RESUME_ADVICE = (
    "the study keeps the trials that have ended, and of the others the checkpoints that are "
    "uploaded: run the same command again to resume it"
)


def sweep(template: str, **values: object) -> dict[str, object]:
    """Search the hyperparameters of a template, or of several, such as `yolox,ssd`.

    `values` are the options of `detreg sweep` by name. Returns what `detreg sweep --json` prints.
    Workers are processes: in a script, call it under `if __name__ == "__main__":`.

    Raises:
        DetregError: see detreg.errors.
    """
    set_mlflow_defaults()
    request = make_request(parse_templates(template), values)
    return run_sweep(request).to_json()


def run_sweep(request: SweepRequest) -> SweepResult:
    """Search, finish and report. A second call with the same request resumes the first.

    Whatever can be refused is refused before the MLflow run and the first trial.
    """
    started_at = time.time()
    options = request.options
    with show_progress() as progress:
        dataset = load_dataset(
            options.data,
            progress=progress,
            on_bad_image=options.on_bad_image,
            masks=request.space.may_have_masks,
        )
    print(describe_dataset(dataset), flush=True)
    check_calibration(dataset, options)
    storage_url = request.sweep.storage or choose_default_storage()
    plan = make_plan(request, dataset.digest, storage_url, dataset.masks_digest)
    for sentence in plan.space.describe_moved_defaults():
        print(sentence)
    print(f"Searches {plan.space}", flush=True)

    refuse_mlflow_database(plan.storage)
    storage = open_storage(plan.storage, plan.sweep.heartbeat)
    _check_stores(plan, dataset)
    with experiments.use_dataset_experiment(dataset):
        return _run_plan(request, plan, dataset, storage, started_at)


def _run_plan(
    request: SweepRequest, plan: Plan, dataset: Dataset, storage: StudyStorage, started_at: float
) -> SweepResult:
    """Check the disks and the weights, open the study, and work on it in an MLflow run."""
    _check_disks(plan)
    context = make_context()
    check_initial_weights(context, plan)
    prepared = prepare_precisions(context, plan, storage)
    remembered = []
    if not studies.has_study(plan.name, storage):
        remembered = remember_values(plan, dataset)
    for values in remembered:
        print(f"After the defaults: {format_values(values.params)}, which {values}", flush=True)
    study, is_new = open_search_study(plan, storage, remembered)
    plan = agree_on_precisions(plan, study, is_new=is_new, prepared=prepared)

    with _start_sweep_run(study, is_new, plan, dataset) as active:
        budget = request.budget_seconds
        deadline = None if budget is None else started_at + budget
        plan = plan.with_run(study.user_attrs[studies.SWEEP_RUN_ATTR], deadline)
        _print_start(active, study, plan)
        with explain_interruption(lambda: [_RESUME_ADVICE]):
            log_settings(active, plan)
            if is_new:
                # Here and not in the runs of the trials, which all have this dataset.
                log_page_of_run(active, lambda: write_page_of_run(dataset, request.options.data))
            return _search_and_finish(active, plan, study)


def _search_and_finish(active: Run, plan: Plan, study: Study) -> SweepResult:
    """Run the trials of the search, then the final jobs.

    Ctrl-C ends the search and still registers the best so far; a second one ends that too.
    """
    logs = active.folder / "logs"
    logs.mkdir(exist_ok=True)
    pool = WorkerPool(plan, study, plan.sweep.trials, Stage.SEARCH, logs)
    try:
        progress = Progress(study, plan, plan.sweep.trials)
        pool.run(progress.print_ended_trials)
    except KeyboardInterrupt:
        print("Stops: registers the best so far; press Ctrl-C again to skip that", flush=True)
        without_confirm = replace(plan, sweep=replace(plan.sweep, confirm=0))
        finish_sweep(active, without_confirm, study, logs)
        raise
    finally:
        # Tidying up must not hide the error that ended the search; the next command repeats it.
        with contextlib.suppress(Exception):
            studies.requeue_lost_trials(study, plan.sweep.heartbeat)
            _end_orphaned_runs(study, plan.parent)
            active.log_file(logs, "logs")
    return finish_sweep(active, plan, study, logs)


def choose_default_storage() -> str:
    """Return the URL in DETREG_STORAGE, else that of a SQLite file.

    The file is beside MLflow's database where that is a file too, else in the working directory.
    Beside MLflow's first, because `mlflow run` may work
    in a folder that is deleted afterwards.
    """
    # The place for a URL with a password, which no parameter may hold.
    url = os.environ.get("DETREG_STORAGE")
    if url:
        return url

    folder = Path()
    tracking_uri = runs.get_tracking_uri()
    if "sqlite:" in tracking_uri:
        database = sqlalchemy.make_url(tracking_uri).database
        if database:
            folder = Path(database).parent
    return f"sqlite:///{folder.absolute() / 'detreg-sweeps.db'}"


def refuse_mlflow_database(url: str) -> None:
    """Raise UsageError where `url` is MLflow's own database: both would migrate its tables."""
    if url == runs.get_tracking_uri():
        raise UsageError(
            f"storage must not be MLflow's own database, got {url}: "
            "give the sweep a database of its own"
        )


def _check_stores(plan: Plan, dataset: Dataset) -> None:
    """Refuse a sweep whose trials could not be logged, or whose best not registered."""
    options = plan.options
    preflight.check_stores(
        [options.choose_model_name(template.name, dataset.name) for template in plan.templates]
    )

    hints: list[str] = []
    for template in plan.templates:
        hints += model_hints.list_hints(options, template.name, dataset)
    for hint in dict.fromkeys(hints):  # all templates may have one name
        print(hint, flush=True)


def _check_disks(plan: Plan) -> None:
    """Refuse a sweep whose trials could not be stored."""
    workers = max(1, plan.sweep.workers)
    for template in plan.templates:
        preflight.check_disks(template, plan.get_first_params(template), workers)


def open_search_study(
    plan: Plan, storage: StudyStorage, remembered: Sequence[RememberedValues] = ()
) -> tuple[Study, bool]:
    """Load or create the plan's study.

    Its first trials are the defaults of each template, then the remembered values.
    Returns the study, and whether this call has created it.
    """
    first_trials = [
        FirstTrial(
            params=plan.space.make_first_trial(template.name),
            user_attrs={studies.DEFAULTS_ATTR: template.name},
        )
        for template in plan.templates
    ]
    for values in remembered:
        first_trials.append(FirstTrial(values.params, {studies.MEMORY_ATTR: str(values)}))
    return studies.open_study(
        plan.name, storage, make_search_sampler(plan), make_search_pruner(plan), first_trials
    )


@contextlib.contextmanager
def _start_sweep_run(study: Study, is_new: bool, plan: Plan, dataset: Dataset) -> Iterator[Run]:
    """Start or resume the MLflow run of this command.

    It is the study's own run, resumed, unless `mlflow run` has made another one for this process.
    The command that creates the study writes the id of its run there; others wait for it.
    """
    if not is_new:
        studies.wait_until(lambda: studies.SWEEP_RUN_ATTR in study.user_attrs)
    first_run = _find_existing_run(study.user_attrs.get(studies.SWEEP_RUN_ATTR))
    has_own_run = "MLFLOW_RUN_ID" in os.environ

    tags = {
        runs.STUDY: plan.name,
        runs.TEMPLATE: ",".join(plan.space.templates),
        runs.DIGEST: plan.dataset_digest,
    }
    if plan.masks_digest:
        tags[runs.MASKS_DIGEST] = plan.masks_digest
    if first_run and has_own_run:
        tags[runs.PARENT] = first_run
    resumed_run = None if has_own_run else first_run
    templates = "+".join(plan.space.templates)
    run_name = choose_run_name(plan.options.run_name, f"sweep of {templates} on {dataset.name}")
    with runs.start_run(run_name, tags, run_id=resumed_run) as active:
        # Other commands wait for this before they start; trials are nested in this run.
        if not first_run:
            study.set_user_attr(studies.SWEEP_RUN_ATTR, active.id)
        yield active


def _find_existing_run(eid: str | None) -> str | None:
    """Return the id of a run, or None where there is none or it was deleted since."""
    if eid is None:
        return None
    try:
        runs.get_run(eid)
    except NotFoundError:
        return None
    return eid


def _print_start(active: Run, study: Study, plan: Plan) -> None:
    tracking_uri = redact(runs.get_tracking_uri())
    database = redact(plan.storage)
    print(f"MLflow run {active.id} in {tracking_uri}; study {plan.name} in {database}")
    if plan.parent != active.id:
        print(f"The sweep was started by run {plan.parent}, under which its trials are")

    settled = sum(lineage.is_settled for lineage in studies.get_lineages(study))
    if settled:
        print(f"Resumes the study: {settled} of {plan.sweep.trials} trials have ended")
    if plan.deadline is not None:
        print(f"Ends in {format_duration(plan.deadline - time.time())}")


def log_settings(active: Run, plan: Plan) -> None:
    """Log the options, the fixed values and the space."""
    params = to_texts(plan.options) | to_texts(plan.sweep)
    params["storage"] = plan.storage  # without its password, as all that is logged
    for template, part in plan.space.templates.items():
        for name, value in part.fixed.items():
            params[f"{template}.{name}"] = str(value)
    if plan.options.precision == "auto":
        for template, precision in plan.precisions.items():
            params[f"{template}.precision.resolved"] = precision
    active.log_params(params)
    active.log_text(str(plan.space), "space.txt")


def _end_orphaned_runs(study: Study, parent: str) -> None:
    """End the MLflow runs of trials whose worker was killed; they would stay RUNNING for ever."""
    running_trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    running_numbers = {trial.number for trial in running_trials}
    for child in runs.list_running_children(parent):
        tags = child.data.tags
        is_of_study = tags.get(runs.STUDY) == study.study_name
        if is_of_study and int(tags.get(runs.TRIAL, -1)) not in running_numbers:
            runs.end_run(child.info.run_id, "its worker died")
