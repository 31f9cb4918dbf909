"""A network outside of training: built from its configuration, and run over a loader's images."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from detreg.inference.detections import MAX_DETECTIONS, Detections
from detreg.training import (  # noqa: F401  MMEngine builds from them by name
    backbones,
    crops,
    distributed,
    heads,
    masks,
    mixing,
    packing,
    plain_epochs,
    random_changes,
    seeding,
    train_loop,
    transforms,
)
from detreg.training.loader_processes import prepare_processes, start_processes
from detreg.training.metrics import convert_predictions


def build_network(
    model: dict[str, Any], state_dict: dict[str, torch.Tensor] | None
) -> torch.nn.Module:
    """Build the network of a model configuration, ready to predict, on the GPU where there is one.

    Its weights are those of `state_dict`, or random ones where that is None.
    """
    register_all_modules(init_default_scope=False)
    init_default_scope("mmdet")
    with silence_libraries():
        network = MODELS.build(ConfigDict(model))

    if state_dict is None:
        network.init_weights()
    else:
        network.load_state_dict(state_dict)
    return _prepare_to_predict(network)


def predict(
    network: Any,
    loader: dict[str, Any],
    classes: tuple[str, ...],
    limit: int | None = MAX_DETECTIONS,
) -> Iterator[tuple[int, Detections]]:
    """Yield image id and detections, in the image's pixels, for every image of a loader's config.

    These are MMDetection's own predictions. `limit` is the most of an image, best first; None
    yields all.
    """
    network = _prepare_to_predict(network)  # an export leaves it on the CPU
    with silence_libraries():
        batches = Runner.build_dataloader(loader, seed=0)
    prepare_processes(batches)

    with torch.inference_mode(), warnings.catch_warnings(), start_processes(batches) as loaded:
        warnings.simplefilter("ignore")
        for batch in loaded:
            for sample in network.test_step(batch):
                content = sample.to_dict()
                yield content["img_id"], convert_predictions(content, classes, limit)


@contextlib.contextmanager
def silence_libraries() -> Iterator[None]:
    """Keep what the libraries print while they set up out of detreg's output."""
    logging.getLogger("mmengine").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _prepare_to_predict(network: Any) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return network.to(device).eval()
