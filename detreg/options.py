"""What a run or a sweep is told beside the hyperparameters of its template."""

from dataclasses import dataclass

from detreg.defaults import SCORE_THRESHOLD
from detreg.params import boolean, choice, integer, number, text


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is told beside its hyperparameters; the same for all templates."""

    data: str = text(
        "sample",
        help="Folder, zip or tar with a COCO, Roboflow, Pascal VOC or YOLO dataset; sample is a drawn one",
    )
    seed: int = integer(0, 0, 2**31 - 1, 1, help="Seed of everything random")
    registered_model_name: str | None = text(
        None, help="Name in the MLflow model registry; none is the template's name"
    )
    patience: int = integer(
        0,
        0,
        200,
        1,
        help="Epochs without a better val mAP before training stops; 0 never stops early",
    )
    amp: bool = boolean(False, help="Automatic mixed precision; needs a GPU")
    num_workers: int = integer(
        2, 0, 64, 1, help="Processes that load pictures; 0 loads in the training process"
    )
    score_threshold: float = number(
        SCORE_THRESHOLD,
        0.0,
        1.0,
        help="Score under which the served model leaves detections out, unless asked",
    )
    run_name: str | None = text(None, help="Name of the MLflow run; none lets MLflow choose")


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What a sweep is told beside the run options."""

    trials: int = integer(
        20, 1, 10_000, 1, help="Trials in all, over all machines that work on the sweep"
    )
    space: str | None = text(
        None,
        help="What is searched: name=minimum:maximum:step, :log or value|value, with spaces between, or a YAML file; none is usual",
    )
    sampler: str = choice("tpe", "random", help="How the values of a trial are chosen")
    pruner: str = choice(
        "asha",
        "hyperband",
        "median",
        "none",
        help="How trials with a poor val mAP are stopped early",
    )
    budget: str | None = text(
        None,
        help="Time after which this command ends, such as 90m, 2h or 1h30m; none takes what the trials take",
    )
    confirm: int = integer(
        0,
        0,
        20,
        1,
        help="Seeds, beside that of the sweep, with which the best and the defaults are trained again",
    )
    workers: int = integer(
        0, 0, 64, 1, help="Trials at a time on this machine; 0 is one for each GPU, or one"
    )
    storage: str | None = text(
        None,
        help="Optuna's database, such as postgresql://... for many machines; none is detreg-sweeps.db beside MLflow's, or in this folder",
    )
    study: str | None = text(
        None, help="Name of the study; another name starts a new sweep with the same arguments"
    )
    heartbeat: int = integer(
        30,
        1,
        3600,
        1,
        help="Seconds between a trial's signs of life; after four without, another worker takes over",
    )
