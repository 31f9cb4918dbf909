"""One training in an MLflow run of its own, up to the registered version."""

import functools
import uuid
from typing import TYPE_CHECKING

from detreg import torchrun
from detreg.continuation import describe_interrupted
from detreg.data.dataset import Dataset
from detreg.invocation import Invocation
from detreg.options import RunOptions
from detreg.redaction import redact
from detreg.signals import explain_interruption
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.tracking.run_folders import claim_run_folder
from detreg.tracking.run_names import choose_run_name
from detreg.tracking.runs import Run
from detreg.training.engine import check_initial_weights, fit
from detreg.training.job import Job, describe_job, log_job, prepare_job

if TYPE_CHECKING:
    from detreg.publish import TrainingResult


def train_and_publish(
    template: Template, params: CommonParams, options: RunOptions, dataset: Dataset
) -> "TrainingResult":
    """Train in a new MLflow run and register the exported model.

    Whatever can be refused is refused before the run starts. Of several processes the first one
    does this. The others train with it, and end with SystemExit.
    """
    # The others wait until the first one is ready, and then find all downloads in the cache.
    job = prepare_job(template, params, options, dataset)
    if torchrun.get_rank() > 0:
        train_with_first_process(job)
        raise SystemExit(0)

    check_initial_weights(job)
    torchrun.signal_ready()
    invocation = Invocation.find()
    name = choose_run_name(options.run_name, describe_job(job))
    with runs.start_run(name, job.tags) as run:
        print(f"MLflow run (eid) {run.id} in {redact(runs.get_tracking_uri())}", flush=True)

        def describe_rest() -> list[str]:
            return describe_interrupted(
                run.id, run.checkpoints, template, params, options, invocation
            )

        with explain_interruption(describe_rest):
            log_job(run, job)
            return _fit_and_publish(run, job)


def _fit_and_publish(run: Run, job: Job) -> "TrainingResult":
    """Train, log the page of the dataset meanwhile, and publish.

    The first step does not wait for what both import. It is imported after the first epoch and not
    at the end, so that a release of detreg that is installed during a long training is not mixed
    with the one that trains. The page leaves random numbers changed; each step seeds its own.
    """

    @functools.cache  # there is one page
    def log_page() -> None:
        from detreg.publish import log_dataset_page  # noqa: PLC0415 (matplotlib, onnx, pandas)

        log_dataset_page(run, job)

    def log_page_after_first_epoch(_epoch: int, _mAP: float) -> bool:
        log_page()
        return False

    if torchrun.get_world_size() > 1:
        log_page()  # while the processes are a group, a loader has the images of one of them
    fitted = fit(job, run.folder, run, log_page_after_first_epoch)
    log_page()  # of a training that had no epoch left

    from detreg.publish import publish  # noqa: PLC0415 (as above)

    return publish(run, job, fitted)


def train_with_first_process(job: Job) -> None:
    """Train together with the first process, which alone writes. Raises the errors of training."""
    # In the cache, where the next command removes what a killed process has left.
    claimed = claim_run_folder(uuid.uuid4().hex)
    try:
        fit(job, claimed.path, None)
    finally:
        claimed.remove()
