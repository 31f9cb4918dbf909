"""What a template is: a ready-made detector with declared hyperparameters. Standard library only, so that listing them is instant."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

from detreg.params import (
    NONE,
    ImageSize,
    boolean,
    choice,
    get_params,
    integer,
    number,
    number_or_auto,
    size,
    text,
)

Config = dict[str, Any]
"""A part of an MMDetection configuration."""


@dataclass(frozen=True)
class InputSpec:
    """How a network wants its pixels.

    `mean` and `std` are per channel (0..255), in the order that `channels` ("rgb" or "bgr") gives.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: str
    gray_padding: int | None = None
    """The gray level (0..255) that pads images; None pads with the mean, which normalization makes 0."""

    @property
    def is_normalized(self) -> bool:
        """Whether the network subtracts a mean or divides by a deviation at all."""
        return any(self.mean) or any(value != 1 for value in self.std)

    @property
    def pad_value(self) -> tuple[int, int, int]:
        """The uint8 pixel (red, green, blue) that pads images before normalization."""
        if self.gray_padding is not None:
            return (self.gray_padding,) * 3
        first, second, third = (round(value) for value in self.mean)
        return (first, second, third) if self.channels == "rgb" else (third, second, first)

    @property
    def normalized_pad_value(self) -> float:
        """The same after normalization, for all channels."""
        return 0.0 if self.gray_padding is None else float(self.gray_padding)


IMAGENET = InputSpec(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), channels="rgb")
"""The mean and deviation of ImageNet's pixels."""


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
class Recipe:
    """How a base model was trained when it was published; where nobody has published it, how detreg trains it."""

    learning_rate: float
    """Of a step with `batch_size` images."""
    batch_size: int
    """The published number of images in a step, over all GPUs."""
    optimizer: Config
    """MMEngine's optimizer wrapper without the learning rate."""
    schedule: Schedule

    @property
    def per_item_lrate(self) -> float:
        """The published learning rate for each image of a step."""
        return self.learning_rate / self.batch_size


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """One network of a template, and what was published for it."""

    config: str
    """The packaged MMDetection configuration, such as `yolox/yolox_s_8xb8-300e_coco.py`."""
    input: InputSpec
    recipe: Recipe
    image_size: int | None = None
    """The published image_size where it is not on the grid of 32 pixels."""
    pad_divisor: int = 32
    """Images are padded until both sides divide by this."""
    smallest_input: int = 1
    """The smallest side of an input, in pixels, from which no map of the network is empty; most take whatever is padded."""
    url: str = ""
    """COCO weights in MMDetection's layout; empty where nobody published any."""
    sha256: str = ""
    """Of that file; a prefix will do, as in the file's own name."""
    coco_ap: float | None = None
    """COCO val2017 box AP as published, in percent."""
    imagenet: str = ""
    """The library and the name there of ImageNet weights for the backbone, such as `timm:inception_v4.tf_in1k`."""
    parameters: float
    """Millions of parameters at 80 classes and default hyperparameters; a test counts them."""
    gflops: float
    """Billions of multiplications with additions for one square picture of the default image_size; a test counts them."""


def _warm(progress: float, steps: int, warmup: int) -> float:
    """A linear warm-up over `warmup` steps, or a tenth of a training that is short."""
    share = min(warmup / steps, 0.1)
    return 1.0 if progress >= share else 0.001 + 0.999 * progress / share


def step_schedule(epochs: int, drops: tuple[int, ...], warmup: int) -> Schedule:
    """A tenth of the rate after each of the epochs `drops`."""

    def factor(progress: float, steps: int) -> float:
        return _warm(progress, steps, warmup) * 0.1 ** sum(
            progress >= drop / epochs for drop in drops
        )

    return Schedule(epochs, factor)


def cosine_schedule(epochs: int, warmup: int) -> Schedule:
    """Half a cosine down to nothing, in one stair for each of the published epochs."""

    def factor(progress: float, steps: int) -> float:
        # Of a product like 7 / 120 * 120 floating point may leave a little less than the integer.
        stair = math.floor(progress * epochs + 1e-9) / epochs
        return _warm(progress, steps, warmup) * 0.5 * (1 + math.cos(math.pi * stair))

    return Schedule(epochs, factor)


def to_height_ratios(ratios: tuple[float, ...]) -> list[float]:
    """Width-to-height ratios as MMDetection counts them, height to width, in its published order."""
    return sorted(1 / ratio for ratio in ratios)


@dataclass(frozen=True)
class Augmentation:
    """What happens to training pictures beside resizing, as transforms of MMDetection."""

    before: list[Config] = field(default_factory=list)
    """Before resizing."""
    mixing: list[Config] = field(default_factory=list)
    """After resizing: combine several pictures; left out in the plain epochs."""
    after: list[Config] = field(default_factory=list)


def lrate_field(search: str) -> Any:
    """Declare `per_item_lrate`, whose default is the published rate of the base model; a sweep searches the range `search`."""
    return number_or_auto(
        0.0,
        1.0,
        search=search,
        help="Learning rate per image: a step's rate is batch_size times this; auto is the published rate of the base model, "
        "0 trains nothing",
    )


def frozen_stages_field(default: int) -> Any:
    """Declare `frozen_stages`."""
    return integer(
        default,
        0,
        4,
        1,
        search="0:2:1",
        help="Backbone stages, from the input, whose parameters and batch-norm statistics training does not change; 4 is the whole "
        "backbone. 0 freezes no parameters, and keeps the batch-norm statistics of a ResNet that was filled with weights, as published",
    )


@dataclass(frozen=True, kw_only=True)
class CommonParams:
    """The hyperparameters that every template has."""

    image_size: ImageSize = size(
        640,
        help="Pixels: the smaller side of the image, or width,height exactly with keep_aspect_ratio=false",
    )
    keep_aspect_ratio: bool = boolean(
        True, help="Resize both sides by one factor; false stretches to a square or to width,height"
    )
    max_aspect_ratio: float = number(
        1.5,
        1.0,
        5.0,
        0.1,
        help="With keep_aspect_ratio: the longer side is at most this multiple of image_size after resizing",
    )
    batch_size: int = integer(8, 1, 32, 1, help="Images per optimiser step, over all GPUs")
    num_epochs: int = integer(50, 1, 200, 1, help="Passes over the training split")
    min_samples_per_epoch: int = integer(
        300,
        1,
        10000,
        1,
        help="Images that an epoch has at least; a smaller training split is repeated within the epoch",
    )
    per_item_lrate: float | None = lrate_field("5e-5:5e-3:log")
    pretrained_weights: str = choice(
        "coco", "none", help="Published weights that the whole network starts from"
    )
    frozen_stages: int = frozen_stages_field(0)
    random_resize_lower: ImageSize | None = size(
        None,
        help="Pixels: smallest random size of training images, in the form of image_size; none is image_size",
    )
    random_resize_upper: ImageSize | None = size(
        None,
        help="Pixels: largest random size of training images, in the form of image_size; none is image_size",
    )
    load_from: str | None = text(
        None, help="Checkpoint to start from: coco, a URL, a path, runs:/... or models:/..."
    )
    base_model: str = choice("none", help="The architecture underneath")
    continue_from_eid: str | None = text(None, help="Run id of an earlier training to go on from")

    @property
    def learning_rate(self) -> float:
        """Of one optimizer step, before the schedule. Raises ValueError while per_item_lrate is still `auto`."""
        if self.per_item_lrate is None:
            raise ValueError(
                "per_item_lrate=auto has no number yet: call Template.resolve(params) first"
            )
        return self.batch_size * self.per_item_lrate

    @property
    def random_sizes(self) -> tuple[ImageSize, ImageSize]:
        """Smallest and largest size of training images."""
        return (
            self.random_resize_lower or self.image_size,
            self.random_resize_upper or self.image_size,
        )

    @property
    def sources(self) -> dict[str, str]:
        """The parameters that name a source of weights, the strongest first."""
        named = {
            name: getattr(self, name, None)
            for name in (
                "continue_from_eid",
                "load_from",
                "pretrained_weights",
                "pretrain_base_data",
            )
        }
        return {name: value for name, value in named.items() if value and value != NONE}

    RULE_GROUPS: ClassVar[tuple[tuple[str, ...], ...]] = (
        (
            "base_model",
            "image_size",
            "keep_aspect_ratio",
            "random_resize_lower",
            "random_resize_upper",
        ),
        (
            "frozen_stages",
            "pretrained_weights",
            "pretrain_base_data",
            "load_from",
            "continue_from_eid",
        ),
    )
    """What `find_problems` looks at, also that of a template: each of its rules, at values of one group.

    A sweep tries the combinations of each group (detreg/sweeps/space.py), so a rule must be
    monotone in numbers and sizes, and ask of a text only whether it is there.
    """

    def find_problems(self) -> list[str]:
        """What is wrong with the combination of values, each valid by itself."""
        found = []
        lower, upper = self.random_sizes
        if self.keep_aspect_ratio and any(len(s) == 2 for s in (self.image_size, lower, upper)):
            found.append(
                "width,height (in image_size, random_resize_lower or random_resize_upper) goes with keep_aspect_ratio=false only: "
                "give one number, the smaller side, or add keep_aspect_ratio=false"
            )
        elif not len(self.image_size) == len(lower) == len(upper):
            found.append(
                "random_resize_lower and random_resize_upper must have the form of image_size: one number, or width,height"
            )
        elif any(low > high for low, high in zip(lower, upper, strict=True)):
            found.append(
                f"random_resize_lower={_size_text(lower)} must not be above random_resize_upper={_size_text(upper)}"
                " (either is image_size where it is not given)"
            )
        if self.continue_from_eid and self.load_from:
            found.append(
                "continue_from_eid and load_from both say where to start: give one of them"
            )
        if self.frozen_stages and not self.sources:
            found.append(
                f"frozen_stages={self.frozen_stages} with pretrained_weights=none would freeze random weights: "
                "set frozen_stages=0 or a source of weights"
            )
        return found


def _size_text(value: ImageSize) -> str:
    return ",".join(map(str, value))


P = TypeVar("P", bound=CommonParams)

Decoder = Literal["yolox", "one_stage", "two_stage"]
"""The kinds of head that detreg/export/decode/ can export, one file for each."""


@dataclass(frozen=True)
class ClassLayer:
    """A layer with outputs per class.

    Tensors whose names match `pattern` hold blocks of `rows` rows for each class, in order; after them `background` times `rows` of no
    class. There may be several such blocks, one per anchor.
    """

    pattern: str
    rows: int = 1
    background: int = 0


@dataclass(frozen=True, kw_only=True)
class Template:
    """A detector that can be trained by name."""

    name: str
    aliases: tuple[str, ...]
    summary: str
    description: str
    when: str
    """When to choose it."""
    params: type[CommonParams]
    base_models: Mapping[str, BaseModel]
    build_model: Callable[[Config, Any, int], Config]
    """From the packaged model configuration, the params and the number of classes to the network to train."""
    build_augmentation: Callable[[list[Config], Any], Augmentation]
    """From the published training pipeline and the params."""
    get_class_layers: Callable[[Any], tuple[ClassLayer, ...]]
    """From the params to the layers with outputs per class."""
    decoder: Decoder
    """How the exported graph turns the outputs of the network's head into detections."""
    ema_momentum: float | None = None
    """Momentum of the exponential moving average of the weights that is scored and exported; None keeps none."""

    def get_base_model(self, params: CommonParams) -> BaseModel:
        """The base model that the params name."""
        return self.base_models[params.base_model]

    def resolve(self, params: P) -> P:
        """The params with a number in place of each `auto`."""
        if params.per_item_lrate is not None:
            return params
        return replace(params, per_item_lrate=self.get_base_model(params).recipe.per_item_lrate)

    def as_json(self) -> dict[str, Any]:
        """What `detreg templates --json` prints of it."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "summary": self.summary,
            "hyperparameters": [param.as_json() for param in get_params(self.params).values()],
        }
