"""Runs a composed training with MMEngine's Runner, and a trained network over a split."""

import contextlib
import gc
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from detreg import torchrun
from detreg.errors import MemoryExhaustedError, NotFoundError
from detreg.inference.detections import MAX_DETECTIONS, Detections
from detreg.options import RunOptions
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.tracking.runs import Run
from detreg.training import (  # noqa: F401  MMEngine builds from them by name
    backbones,
    checkpoints,
    distributed,
    heads,
    plain_epochs,
    seeding,
    transforms,
)
from detreg.training.batch_norms import freeze_statistics, normalize_single_values
from detreg.training.hooks import EpochHook, LearningRateHook, ReseedHook, RestoreHook
from detreg.training.metrics import convert_predictions
from detreg.training.weights import InitialWeights, fill

# What was imported is no garbage. MMEngine collects garbage before each training, and would look through all of it for seconds.
gc.freeze()


class _Runner(Runner):
    """MMEngine's, without what it writes about itself: asking compilers and formatting the configuration take seconds."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        pass

    def dump_config(self) -> None:
        """Nothing: the configuration is an artifact of the run."""


@dataclass(frozen=True)
class FitResult:
    """The end of a training. `checkpoint` is the best one; `history` has one dict of metrics for each epoch."""

    checkpoint: Path
    best_epoch: int
    best_mAP: float
    history: list[dict[str, float]]


@distributed.join_processes()
def fit(
    config: Config,
    template: Template,
    params: CommonParams,
    options: RunOptions,
    classes: tuple[str, ...],
    start: InitialWeights,
    folder: Path,
    run: Run | None,
    after_epoch: Callable[[int, float], bool] | None = None,
) -> FitResult:
    """Trains as `config` says, from `start`, with its files in `folder`, and logs to `run`; without one, helps the process that has it.

    `after_epoch` is told the number of each epoch and its val mAP; when it returns True, training ends.

    Raises StoppedError when the loss is NaN or infinite, MemoryExhaustedError, and DataError where the start's weights do not fit.
    """
    # Numbers too small for the usual format make a CPU several times slower, and a network with random weights has many.
    torch.set_flush_denormal(True)
    config = config.copy()
    config.work_dir = str(folder / "work")
    with _quiet():
        runner = _Runner.from_cfg(config)
        _ = (
            runner.train_loop,
            runner.val_loop,
        )  # reads the annotations, which pycocotools tells the world
    _prepare_batch_norms(runner.model, params)

    def fill_from_start(model: torch.nn.Module) -> None:
        for sentence in (
            fill(model, start.weights, classes, template.get_class_layers(params))
            if start.weights
            else ()
        ):
            print(f"  {sentence}", flush=True)

    epochs = EpochHook(
        run, folder, classes, options.patience, start.resume, start.weights, after_epoch
    )
    runner.register_hook(ReseedHook(options.seed))
    factor = template.get_base_model(params).recipe.schedule.factor
    runner.register_hook(LearningRateHook(params.learning_rate, factor))
    runner.register_hook(RestoreHook(fill_from_start, start.resume))
    runner.register_hook(epochs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner.train()
        epochs.upload_kept()
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryExhaustedError(
            f"the GPU has no memory left at batch_size={params.batch_size} and image_size={params.image_size}: "
            "lower one of them, or set amp=true"
        ) from error
    except RuntimeError as error:
        # Some losses refuse numbers that are none before the loss can be looked at.
        if all(bool(parameter.isfinite().all()) for parameter in runner.model.parameters()):
            raise
        raise epochs.diverged(runner) from error
    finally:
        if epochs.bar is not None:
            epochs.bar.close()
        if sys.exception() and torchrun.get_world_size() > 1:
            torchrun.ignore_signals()  # the launcher's would cut the upload short
        # After a failure or an interruption too, so that it can be continued; that one is what is told, not a second failure here.
        with contextlib.suppress(Exception):
            epochs.upload_kept()
    return FitResult(folder / "best.pth", epochs.best_epoch, epochs.best_mAP, epochs.history)


def _prepare_batch_norms(model: torch.nn.Module, params: CommonParams) -> None:
    """Let the model's batch-norms take what this training gives them."""
    if not isinstance(model, distributed.SyncedDDP):  # which has the values of several processes
        normalize_single_values(model)
    if params.learning_rate == 0:
        freeze_statistics(model)


def fitted(eid: str, folder: Path) -> FitResult:
    """The end of a training that an earlier run has kept, with its files in `folder`. Raises NotFoundError where it has none."""
    stored = runs.find_checkpoints(eid)
    if stored is None:
        raise NotFoundError(
            f"run {eid} has no checkpoint: it is no training of detreg's, or ended before its first epoch"
        )
    best, last = (
        checkpoints.load(runs.download_artifact(eid, artifact, folder / name))
        for name, artifact in (("best", stored.best), ("last", stored.last))
    )
    path = folder / "best.pth"
    checkpoints.save(path, best)
    return FitResult(path, last.best_epoch, last.best_mAP, last.history)


def check_fit(
    config: Config,
    template: Template,
    params: CommonParams,
    classes: tuple[str, ...],
    start: InitialWeights,
) -> None:
    """Raises DataError where the start's weights do not fit, before a run begins."""
    if start.weights is not None:
        fill(
            build_network(config.model, None),
            start.weights,
            classes,
            template.get_class_layers(params),
        )


def build_network(
    model: dict[str, Any], state_dict: dict[str, torch.Tensor] | None
) -> torch.nn.Module:
    """The network of a model configuration with these weights, or random ones, ready to predict, on the GPU where there is one."""
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")
    with _quiet():
        network = MODELS.build(ConfigDict(model))
    if state_dict is None:
        network.init_weights()
    else:
        network.load_state_dict(state_dict)
    return _to_device(network)


def predict(
    network: Any,
    loader: dict[str, Any],
    classes: tuple[str, ...],
    limit: int | None = MAX_DETECTIONS,
) -> Iterator[tuple[int, Detections]]:
    """MMDetection's own predictions for every image of a loader's configuration: image id and detections in the image's pixels.

    `limit` is the most of an image, best first; None tells all.
    """
    network = _to_device(network)  # an export leaves it on the CPU
    with _quiet():
        images = Runner.build_dataloader(loader, seed=0)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in images:
            for sample in network.test_step(batch):
                content = sample.to_dict()
                yield content["img_id"], convert_predictions(content, classes, limit)


def _to_device(network: Any) -> Any:
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the libraries' start-up chatter out of detreg's output."""
    logging.getLogger("mmengine").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
