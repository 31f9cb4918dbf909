"""What a template is: a ready-made detector with declared hyperparameters. Standard library only, so that listing them is instant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detreg.params import ImageSize, boolean, choice, declared, integer, number, size, text

Config = dict[str, Any]
"""A part of an MMDetection configuration."""


@dataclass(frozen=True)
class Weights:
    """Published weights of one base model.

    `url` is empty where its authors published none in MMDetection's layout; `sha256` may be a prefix, as in the file's own name.
    """

    config: str
    """The packaged MMDetection configuration, such as `yolox/yolox_s_8xb8-300e_coco.py`."""
    url: str = ""
    sha256: str = ""
    coco_ap: float | None = None
    """COCO val2017 box AP as published, in percent."""


@dataclass(frozen=True)
class InputSpec:
    """How a network wants its pixels: channel order, mean and deviation per channel (0..255), and the grey that pads."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str
    pad_value: int


@dataclass(frozen=True)
class Schedule:
    """The published schedule in epochs, scaled to the length of a training.

    The learning rate depends on progress alone, so a continued training is exact.
    """

    epochs: int
    factor: Callable[[float, int], float]
    """From progress in [0, 1) and the number of all steps to the factor of the learning rate."""
    plain_epochs: int = 0
    """Published number of last epochs with neither Mosaic nor MixUp."""


@dataclass(frozen=True, kw_only=True)
class CommonParams:
    """The hyperparameters that every template has."""

    image_size: ImageSize = size(640, help="Pixels: the smaller side of the image, or width,height exactly with keep_aspect_ratio=false")
    keep_aspect_ratio: bool = boolean(True, help="Resize both sides by one factor; false stretches to a square or to width,height")
    max_aspect_ratio: float = number(
        1.5, 1.0, 5.0, 0.1, help="With keep_aspect_ratio: the longer side is at most this multiple of image_size after resizing"
    )
    batch_size: int = integer(8, 1, 32, 1, help="Images per optimiser step, over all GPUs")
    num_epochs: int = integer(50, 1, 200, 1, help="Passes over the training split")
    min_samples_per_epoch: int = integer(
        300, 1, 10000, 1, help="Images that an epoch has at least; a smaller training split is repeated within the epoch"
    )
    per_item_lrate: float = number(
        0.000625, 0.0, 1.0, log=(1e-6, 1e-2), help="Learning rate per image: a step's rate is batch_size times this; 0 trains nothing"
    )
    pretrained_weights: str = choice("coco", "none", help="Published weights that the whole network starts from")
    frozen_stages: int = integer(0, 0, 4, 1, help="Backbone stages, from the input, that training does not change; 0 freezes none")
    random_resize_lower: ImageSize | None = size(
        None, help="Pixels: smallest random size of training images, in the form of image_size; none is image_size"
    )
    random_resize_upper: ImageSize | None = size(
        None, help="Pixels: largest random size of training images, in the form of image_size; none is image_size"
    )
    load_from: str | None = text(None, help="Checkpoint to start from: coco, a URL, a path, runs:/... or models:/...")
    base_model: str = choice("none", help="The architecture underneath")
    continue_from_eid: str | None = text(None, help="Run id of an earlier training to go on from")

    @property
    def learning_rate(self) -> float:
        """Of one optimiser step, before the schedule."""
        return self.batch_size * self.per_item_lrate

    @property
    def random_sizes(self) -> tuple[ImageSize, ImageSize]:
        """Smallest and largest size of training images."""
        return self.random_resize_lower or self.image_size, self.random_resize_upper or self.image_size

    def problems(self) -> list[str]:
        """What is wrong with the combination of values, each valid by itself."""
        found = []
        lower, upper = self.random_sizes
        if self.keep_aspect_ratio and any(len(s) == 2 for s in (self.image_size, lower, upper)):
            found.append(
                "width,height (in image_size, random_resize_lower or random_resize_upper) goes with keep_aspect_ratio=false only: "
                "give one number, the smaller side, or add keep_aspect_ratio=false"
            )
        elif not len(self.image_size) == len(lower) == len(upper):
            found.append("random_resize_lower and random_resize_upper must have the form of image_size: one number, or width,height")
        elif any(low > high for low, high in zip(lower, upper, strict=True)):
            found.append(
                f"random_resize_lower={_size_text(lower)} must not be above random_resize_upper={_size_text(upper)}"
                " (either is image_size where it is not given)"
            )
        if self.continue_from_eid and self.load_from:
            found.append("continue_from_eid and load_from both say where to start: give one of them")
        if self.frozen_stages and not (self.continue_from_eid or self.load_from or self.pretrained_weights != "none"):
            found.append(
                f"frozen_stages={self.frozen_stages} with pretrained_weights=none would freeze random weights: "
                "set frozen_stages=0 or a source of weights"
            )
        return found


def _size_text(value: ImageSize) -> str:
    return ",".join(map(str, value))


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is told beside its hyperparameters; the same for all templates."""

    data: str = text("sample", help="Folder, zip or tar with a COCO, Roboflow, Pascal VOC or YOLO dataset; sample is a drawn one")
    seed: int = integer(0, 0, 2**31 - 1, 1, help="Seed of everything random")
    registered_model_name: str | None = text(None, help="Name in the MLflow model registry; none is the template's name")
    patience: int = integer(0, 0, 200, 1, help="Epochs without a better val mAP before training stops; 0 never stops early")
    amp: bool = boolean(False, help="Automatic mixed precision; needs a GPU")
    num_workers: int = integer(2, 0, 64, 1, help="Processes that load pictures; 0 loads in the training process")
    score_threshold: float = number(0.05, 0.0, 1.0, help="Score under which the served model leaves detections out, unless asked")
    run_name: str | None = text(None, help="Name of the MLflow run; none lets MLflow choose")


@dataclass(frozen=True)
class ClassLayer:
    """A layer with outputs per class: tensors whose names match `pattern` have `groups` blocks of one row per class."""

    pattern: str
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Template:
    """A detector that can be trained by name."""

    name: str
    aliases: tuple[str, ...]
    summary: str
    description: str
    params: type[CommonParams]
    weights: Mapping[str, Weights]
    input: InputSpec
    model: Callable[[Config, Any, int], Config]
    """From the packaged model configuration, the params and the number of classes to the network to train."""
    augment: Callable[[list[Config], Any], tuple[list[Config], list[Config]]]
    """From the published training pipeline and the params to what combines several pictures, left out in the plain epochs, and the rest."""
    optimizer: Config
    schedule: Schedule
    class_layers: tuple[ClassLayer, ...]
    ema_momentum: float | None = None
    """Momentum of the exponential moving average of the weights that is scored and exported; None keeps none."""

    def as_json(self) -> dict[str, Any]:
        """What `detreg templates --json` prints of it."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "summary": self.summary,
            "hyperparameters": [param.as_json() for param in declared(self.params).values()],
        }
