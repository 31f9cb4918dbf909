"""What more images would bring: trainings on parts of a dataset, and the curve through them.

Each training is an MLflow run nested in that of the curve, and takes the same number of steps. A
second call with the same values takes over the trainings that have ended, and resumes the one that
was interrupted.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config

from detreg import torchrun
from detreg.data.dataset import Dataset, load_dataset
from detreg.data.parts import take_part
from detreg.data.summary import describe_dataset
from detreg.errors import DataError, UsageError
from detreg.evaluation.bootstrap import MatchedDetections
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.learning_curve import (
    LearningCurve,
    Prediction,
    Trained,
    score_means,
    score_training,
)
from detreg.evaluation.learning_curve_plot import plot_learning_curve
from detreg.inference.detections import Detections
from detreg.options import RunOptions
from detreg.params import to_plain, to_texts
from detreg.progress import show_progress
from detreg.report.page import Page, write_page
from detreg.signals import explain_interruption
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import preflight, runs
from detreg.tracking.experiments import use_dataset_experiment
from detreg.tracking.run_names import choose_run_name
from detreg.tracking.runs import Run
from detreg.training import engine
from detreg.training.checkpoints import load_checkpoint
from detreg.training.compose import compose
from detreg.training.job import log_job, prepare_job
from detreg.training.network import build_network, predict
from detreg.training.precision_choice import choose_precision
from detreg.training.settling import settle

CURVE_TAG = "detreg.learning_curve"
"""Of the curve's run and of its trainings: a digest of all that these depend on."""
PART_TAG = "detreg.learning_curve_part"
"""Of a training: its number of images and its seed."""

DIVISORS = (8, 4, 2, 1)
MIN_IMAGES = 16
"""Of the train split: an eighth of less is no dataset."""
ADVICE = "run the same command again: trainings that have ended are not repeated"


@dataclass(frozen=True)
class Point:
    """The val mAP of the trainings on so many images, for each seed, and their mean."""

    images: int
    mAP: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class LearningCurveResult:
    """The end of a learning curve, as `--json` prints it.

    `check` is what the smaller parts alone predict for all images, on which was trained too.
    """

    run_id: str
    template: str
    dataset_digest: str
    points: tuple[Point, ...]
    check: Prediction
    twice: Prediction
    summary: str


@dataclass(frozen=True)
class Settings:
    """What a curve is made of: a template with its values, a dataset, and how many seeds."""

    template: Template
    params: CommonParams
    options: RunOptions
    dataset: Dataset
    num_seeds: int

    @property
    def key(self) -> str:
        """The same for two calls whose trainings are the same."""
        content = {
            "template": self.template.name,
            "params": to_plain(self.params),
            "recipe": self.options.recipe,
            "patience": self.options.patience,
            "dataset": self.dataset.digest,
        }
        if self.params.has_masks:
            content |= {"masks": self.dataset.masks_digest, "metric": self.options.metric}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """A number of training images, and the seed that draws them and trains on them."""

    images: int
    seed: int

    def __str__(self) -> str:
        return f"{self.images} images, seed {self.seed}"


def measure_learning_curve(
    template: Template, params: CommonParams, options: RunOptions, num_seeds: int
) -> LearningCurveResult:
    """Train on parts of the dataset, and predict the mAP with twice the images.

    Whatever can be refused is refused before the MLflow run. Raises UsageError for params that
    continue a run and too few seeds, DataError for fewer than MIN_IMAGES training images, and the
    errors of a training, each of which keeps what was trained before.
    """
    _check_arguments(params, num_seeds)
    with show_progress() as progress:
        dataset = load_dataset(
            options.data,
            progress=progress,
            on_bad_image=options.on_bad_image,
            masks=params.has_masks,
        )
    print(describe_dataset(dataset), flush=True)
    _check_size(dataset)
    preflight.check_stores()
    with use_dataset_experiment(dataset):
        preflight.check_disks(template, params)
        return _run(_settle(Settings(template, params, options, dataset, num_seeds)))


def _run(settings: Settings) -> LearningCurveResult:
    """Train on the parts, and report, in an MLflow run."""
    template, dataset = settings.template, settings.dataset
    params, options = settings.params, settings.options
    name = choose_run_name(options.run_name, f"learning curve of {template.name} on {dataset.name}")
    tags = {runs.TEMPLATE: template.name, runs.DIGEST: dataset.digest, CURVE_TAG: settings.key}
    with runs.start_run(name, tags) as run:
        print(f"MLflow run (eid) {run.id}", flush=True)
        run.log_params(to_texts(params) | to_texts(options) | {"seeds": str(settings.num_seeds)})
        run.log_dataset(dataset)
        with explain_interruption(lambda: [ADVICE]):
            trainings = _train_parts(settings, run)
        return _report(settings, run, trainings)


def _check_arguments(params: CommonParams, num_seeds: int) -> None:
    problems = []
    if num_seeds < 1:
        problems.append(f"seeds must be at least 1, got {num_seeds}")
    if params.continue_from_eid:
        problems.append("continue_from_eid must be empty: that run may have seen all the images")
    if torchrun.get_world_size() > 1:
        problems.append("a learning curve trains in one process: run it without torchrun")
    if problems:
        raise UsageError(problems)


def _check_size(dataset: Dataset) -> None:
    images = dataset.splits["train"].images
    if images < MIN_IMAGES:
        raise DataError(
            f"the train split has {images} images; a learning curve trains on an eighth of them "
            f"too, and needs at least {MIN_IMAGES}"
        )


def _settle(settings: Settings) -> Settings:
    """Return the settings with a value in place of each `auto`, the same for all parts.

    Every part trains as many steps: an epoch repeats the images of a part until they are as many as
    all.
    """
    template, dataset = settings.template, settings.dataset
    settled = settle(template, settings.params, settings.options, dataset)
    params, options = settled.params, settled.options
    samples = max(params.min_samples_per_epoch, dataset.splits["train"].images)
    params = replace(params, min_samples_per_epoch=samples)
    if options.precision == "auto":
        choice = choose_precision(template, params, len(dataset.classes))
        options = replace(options, precision=choice.precision)
    return replace(settings, params=params, options=options)


def _train_parts(settings: Settings, run: Run) -> list[Trained]:
    truth = GroundTruth.load(settings.dataset.splits["val"].annotations)
    config = compose(settings.template, settings.params, settings.dataset, settings.options)

    parts = _list_parts(settings)
    trainings = []
    for number, part in enumerate(parts, start=1):
        print(f"\nTraining {number} of {len(parts)}: {part}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = _train_part(settings, run, part, Path(folder))
            found = _predict_val(config, settings.dataset, checkpoint)
        trained = Trained(part.images, part.seed, MatchedDetections.match(truth, found))
        print(f"val mAP {score_training(trained):.4f} with {part.images} images", flush=True)
        trainings.append(trained)
    return trainings


def _list_parts(settings: Settings) -> list[Part]:
    """Return the trainings; after those of the first seed there is a whole curve already."""
    total = settings.dataset.splits["train"].images
    first = settings.options.seed
    return [
        Part(total // divisor, seed)
        for seed in range(first, first + settings.num_seeds)
        for divisor in DIVISORS
    ]


def _train_part(settings: Settings, parent: Run, part: Part, folder: Path) -> Path:
    """Train on a part in a nested run, and return its best checkpoint, in `folder`.

    What an earlier call has trained of it is taken over.
    """
    tags = {CURVE_TAG: settings.key, PART_TAG: str(part)}
    earlier = runs.find_latest_run(parent.id, tags)
    params = settings.params
    if earlier is not None:
        eid = earlier.info.run_id
        if earlier.info.status == "FINISHED":
            print(f"  as trained in run {eid}", flush=True)
            return engine.load_fit_result(eid, folder).checkpoint
        runs.settle_run(eid)
        if runs.find_checkpoints(eid) is not None:
            params = replace(params, continue_from_eid=eid, load_from=None)

    dataset = take_part(settings.dataset, part.images, part.seed)
    options = replace(settings.options, seed=part.seed, run_name=None)
    job = prepare_job(settings.template, params, options, dataset)
    with runs.start_run(
        str(part), job.tags | tags, parent=parent.id, must_be_delivered=False
    ) as run:
        log_job(run, job)
        best = engine.fit(job, run.folder, run).checkpoint
        # The run's folder goes with the run.
        return best.rename(folder / best.name)


def _predict_val(config: Config, dataset: Dataset, checkpoint: Path) -> Mapping[int, Detections]:
    """Return what the network of a checkpoint finds on the val split, by image id."""
    network = build_network(config.model, load_checkpoint(checkpoint).state_dict)
    return dict(predict(network, config.val_dataloader, dataset.classes))


def _report(settings: Settings, run: Run, trainings: Sequence[Trained]) -> LearningCurveResult:
    """Log the points, the prediction, the figure and the page."""
    total = settings.dataset.splits["train"].images
    curve = LearningCurve.measure(trainings)
    twice = curve.predict(2 * total)
    check = LearningCurve.measure([t for t in trainings if t.images < total]).predict(total)

    points = []
    for images, mean in score_means(trainings).items():
        seeds = [score_training(trained) for trained in trainings if trained.images == images]
        points.append(Point(images, mean, tuple(seeds)))
        run.log_metrics({"learning_curve/mAP": mean}, step=images)
    run.log_metrics(
        {
            "learning_curve/mAP_with_twice": twice.mAP,
            "learning_curve/mAP_with_twice_low": twice.interval.low,
            "learning_curve/mAP_with_twice_high": twice.interval.high,
        }
    )
    result = LearningCurveResult(
        run_id=run.id,
        template=settings.template.name,
        dataset_digest=settings.dataset.digest,
        points=tuple(points),
        check=check,
        twice=twice,
        summary=_summarize(points[-1], twice),
    )
    run.log_file(_write_page(run.folder / "report", settings, result, curve, trainings), "report")
    return result


def _summarize(whole: Point, twice: Prediction) -> str:
    gain = twice.mAP - whole.mAP
    low, high = twice.interval.low, twice.interval.high
    return (
        f"{twice.images:,} images, twice as many, would give a val mAP of about {twice.mAP:.3f} "
        f"({low:.3f} to {high:.3f}), {gain:+.3f} to the {whole.mAP:.3f} of {whole.images:,} images"
    )


def _write_page(
    folder: Path,
    settings: Settings,
    result: LearningCurveResult,
    curve: LearningCurve,
    trainings: Sequence[Trained],
) -> Path:
    """Write the figure and the page that shows it into a folder, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    plot = plot_learning_curve(curve, trainings, result.twice, folder / "learning_curve.png")
    whole, check = result.points[-1], result.check
    table = []
    for point in result.points:
        seeds = ", ".join(f"{score:.4f}" for score in point.seeds)
        table.append({"images": f"{point.images:,}", "mean": f"{point.mAP:.4f}", "seeds": seeds})
    page = Page(
        title=f"Learning curve of {settings.template.name} on {settings.dataset.name}",
        subtitle=result.summary,
        numbers={
            f"val mAP, {whole.images:,} images": whole.mAP,
            f"expected with {result.twice.images:,}": result.twice.mAP,
        },
        facts={
            "check": f"the smaller parts alone predict {check.mAP:.3f} ({check.interval.low:.3f} "
            f"to {check.interval.high:.3f}) for all {whole.images:,} images",
            "trained": f"{len(trainings)} times, each with the steps of all images",
            "dataset": describe_dataset(settings.dataset),
        }
        | to_texts(settings.params),
        plots=[plot],
        table=table,
    )
    write_page(page, folder / "index.html")
    return folder
