"""A worker: a process that takes trials of a study one after another.

Whatever ends a worker, each of its trials is either finished in the study, or can be resumed from
the checkpoint of its MLflow run (trials.py says by which order of writes).
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

import optuna
import torch
from optuna.study import Study
from optuna.trial import Trial

from detreg.data.dataset import Dataset, load_dataset
from detreg.environment import set_mlflow_defaults
from detreg.errors import DiskError, UnreachableError, describe_failure, summarize_error
from detreg.memory import translate_memory_errors
from detreg.redaction import redact_output
from detreg.signals import STOP_SIGNALS, ignore_signals
from detreg.sweeps import study as studies
from detreg.sweeps.jobs import WorkerTask
from detreg.sweeps.plan import Plan
from detreg.sweeps.samplers import make_search_pruner, make_search_sampler
from detreg.sweeps.storage import TakenOverError, open_storage, retry_while_unreachable
from detreg.sweeps.trials import TRIALS_BY_STAGE, RunTrial
from detreg.tracking import runs
from detreg.training import engine
from detreg.training.job import prepare_job
from detreg.training.loader_processes import choose_num_workers
from detreg.training.precision_choice import choose_precision

ERRORS_OF_THE_MACHINE = (UnreachableError, DiskError)
"""Errors that any other trial would meet too: the trial is given back, not failed."""

MAX_REASON_LENGTH = 1000
"""Characters of a failure's reason that the study keeps."""


def check_initial_weights(plan: Plan) -> None:
    """Read the weights that every template and base model of the plan starts from.

    Raises:
        UsageError, NotFoundError, UnreachableError, DataError: what a training would raise.
    """
    # The trainings of the sweep print the same lines.
    with Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), 1)

    dataset = _load_dataset(plan)
    options = plan.options
    if options.precision == "auto":
        # It is chosen later, and changes no weights.
        options = replace(options, precision="fp32")
    for template in plan.templates:
        defaults = plan.get_first_params(template)
        dimension = plan.space.templates[template.name].dimensions.get("base_model")
        base_models = dimension.choices if dimension else (defaults.base_model,)
        for base_model in base_models:
            params = replace(defaults, base_model=base_model)
            job = prepare_job(template, params, options, dataset)
            engine.check_initial_weights(job)


def choose_precisions(plan: Plan) -> dict[str, str]:
    """Choose for each template, by its name, in which precision all its trials train.

    Raises UsageError as choose_precision does.
    """
    dataset = _load_dataset(plan)
    precisions = {}
    for template in plan.templates:
        params = template.resolve(plan.get_first_params(template), plan.options.recipe)
        choice = choose_precision(template, params, len(dataset.classes))
        precisions[template.name] = choice.precision
        line = f"{template.name}: precision={choice.precision}, {choice.reason} (precision=auto)"
        print(line, flush=True)
    return precisions


def run_worker(task: WorkerTask) -> None:
    """Take trials until none is left for this worker, or until it is stopped by a signal."""
    _configure_process(task)
    num_workers = choose_num_workers(task.plan.options, trainings=task.pool_size)
    plan = replace(task.plan, options=replace(task.plan.options, num_workers=num_workers))
    task = replace(task, plan=plan)
    study = _load_study(task)
    dataset = _load_dataset(plan)
    run_trial = TRIALS_BY_STAGE[task.stage]

    def objective(trial: Trial) -> float:
        return _begin_trial(task, study, dataset, trial, run_trial)

    while not _is_stopped():
        # Fails early where the tracking server has lost the sweep's run; waits where it is away.
        retry_while_unreachable(lambda: runs.get_run(plan.parent))
        step = studies.decide_next_step(study, task.wanted)
        if step is studies.NextStep.END or studies.is_too_late_to_start(study, plan):
            return
        if step is studies.NextStep.WAIT:
            time.sleep(1)
            continue

        try:
            study.optimize(objective, n_trials=1, catch=(Exception,))
        except KeyboardInterrupt:
            # Optuna has failed the trial; the next call of requeue_lost_trials queues it again.
            return
        except (Exception, TakenOverError) as error:
            # Or the database went away, and the trial is found dead by its missing heartbeats.
            message = f"the study could not be updated: {summarize_error(error)}"
            print(message, file=sys.stderr, flush=True)
            time.sleep(1)


def _load_study(task: WorkerTask) -> Study:
    plan = task.plan
    storage = retry_while_unreachable(lambda: open_storage(plan.storage, plan.sweep.heartbeat))
    return retry_while_unreachable(
        lambda: optuna.load_study(
            study_name=task.study_name,
            storage=storage,
            sampler=make_search_sampler(plan),
            pruner=make_search_pruner(plan),
        )
    )


def _begin_trial(
    task: WorkerTask, study: Study, dataset: Dataset, trial: Trial, run_trial: RunTrial
) -> float:
    """Drop a trial that is surplus; do any other."""
    if studies.is_surplus(study, trial.number, task.wanted):
        retry_while_unreachable(lambda: trial.set_user_attr(studies.SURPLUS_ATTR, True))
        # Optuna fails the trial. With the attribute it belongs to no lineage, so nobody retries it.
        raise RuntimeError("this trial is surplus: another worker has started the last one")
    # From here on its heartbeats tell whether this worker lives.
    retry_while_unreachable(lambda: trial.set_user_attr(studies.BEGUN_ATTR, trial.number))
    return run_and_record_failure(task.plan, dataset, trial, run_trial)


def run_and_record_failure(
    plan: Plan, dataset: Dataset, trial: Trial, run_trial: RunTrial
) -> float:
    """Do a trial, and record the reason of a failure that another try would meet again."""
    try:
        with translate_memory_errors():
            return run_trial(plan, dataset, trial)
    except optuna.TrialPruned:
        raise
    except Exception as error:
        print(f"trial {trial.number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if not isinstance(error, ERRORS_OF_THE_MACHINE):
            reason = describe_failure(error)[:MAX_REASON_LENGTH]
            retry_while_unreachable(lambda: trial.set_user_attr(studies.FAILURE_ATTR, reason))
        raise
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _load_dataset(plan: Plan) -> Dataset:
    """Load the dataset of a plan, as the sweep's command has loaded it."""
    options = plan.options
    return load_dataset(
        options.data, on_bad_image=options.on_bad_image, masks=plan.space.may_have_masks
    )


# The process.


def _configure_process(task: WorkerTask) -> None:
    """Give the process its own output, GPU, share of the cores, and handling of signals."""
    with task.log.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    redact_output()

    set_mlflow_defaults()
    # It names the run of the sweep, which `mlflow run` has made; a trial has a run of its own.
    os.environ.pop("MLFLOW_RUN_ID", None)
    if task.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.gpu
    # The cores, or those that OMP_NUM_THREADS allows.
    torch.set_num_threads(max(1, torch.get_num_threads() // task.pool_size))
    # Processes of data loaders are forked, as in any training. Made by the method of this process,
    # they would start without what it has imported.
    multiprocessing.set_start_method("fork", force=True)

    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt_once)
    threading.Thread(target=_stop_with_parent, daemon=True).start()


def _interrupt_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Interrupt the trial as Ctrl-C does, once.

    A second signal must not cut short the upload of the checkpoint.
    """
    ignore_signals()
    raise KeyboardInterrupt(
        "the sweep was stopped; run the same command again to resume this trial from its checkpoint"
    )


def _is_stopped() -> bool:
    """Whether a signal has come, even where its KeyboardInterrupt was replaced by another error."""
    return signal.getsignal(signal.SIGTERM) is not _interrupt_once


def _stop_with_parent() -> None:
    """Wait for the end of the sweep's command, and stop then: this process would keep the GPU."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
