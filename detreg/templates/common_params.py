"""The hyperparameters that every template has.

Templates declare a field again to give it another default.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from detreg.defaults import MAX_ASPECT_RATIO
from detreg.params import (
    NONE,
    ImageSize,
    boolean,
    choice,
    integer,
    integer_or_auto,
    number,
    number_or_auto,
    size,
    text,
)

N = TypeVar("N", int, float)

# These functions are named by the field they declare, like `dataclasses.field`.


def image_size_field(default: int) -> ImageSize:
    """Declare `image_size`."""
    return size(
        default,
        help="Pixels: the smaller side of the image, "
        "or width,height exactly with keep_aspect_ratio=false",
    )


def max_aspect_ratio_field(default: float) -> float:
    """Declare `max_aspect_ratio`."""
    return number(
        default,
        1.0,
        MAX_ASPECT_RATIO,
        0.1,
        help="With keep_aspect_ratio: the longer side is at most this multiple of image_size "
        "after resizing",
    )


def batch_size_field(default: int) -> int | None:
    """Declare `batch_size`."""
    return integer_or_auto(
        default,
        1,
        32,
        1,
        help="Images per optimizer step, over all GPUs; auto is the most that fit into the GPU's "
        "memory, a power of two, and without a GPU the default",
    )


def num_epochs_field(default: int) -> int:
    """Declare `num_epochs`."""
    return integer(default, 1, 200, 1, help="Passes over the training split")


def lrate_field(search: str) -> float | None:
    """Declare `per_item_lrate`; a sweep searches the range `search`."""
    return number_or_auto(
        0.0,
        1.0,
        search=search,
        help="Learning rate per image: a step's rate is batch_size times this; "
        "auto is the recipe's rate for the base model, 0 trains nothing",
    )


def frozen_stages_field(search: str) -> int | None:
    """Declare `frozen_stages`; a sweep searches the range `search`."""
    return integer_or_auto(
        None,
        0,
        4,
        1,
        search=search,
        help="Backbone stages, from the input, whose parameters and batch-norm statistics "
        "training does not change; 4 is the whole backbone. 0 freezes no parameters, and keeps the "
        "batch-norm statistics of a ResNet that was filled with weights, as published; auto is the "
        "recipe's number, and 0 without weights",
    )


def base_model_field(default: str, names: Iterable[str]) -> str:
    """Declare `base_model`, one of `names`."""
    return choice(default, *names, help="The architecture underneath")


def masks_field() -> bool:
    """Declare `masks`, of the templates that have a mask branch (`_masks.py`)."""
    return boolean(
        False,
        help="Find the mask of each object too, beside its box: masks are trained, scored and "
        "exported beside boxes, and the data must have them",
    )


@dataclass(frozen=True, kw_only=True)
class CommonParams:
    """The hyperparameters that every template has."""

    image_size: ImageSize = image_size_field(640)
    keep_aspect_ratio: bool = boolean(
        True, help="Resize both sides by one factor; false stretches to a square or to width,height"
    )
    max_aspect_ratio: float = max_aspect_ratio_field(1.5)
    batch_size: int | None = batch_size_field(8)
    num_epochs: int = num_epochs_field(50)
    min_samples_per_epoch: int = integer(
        300,
        1,
        10000,
        1,
        help="Images that an epoch has at least; "
        "a smaller training split is repeated within the epoch",
    )
    per_item_lrate: float | None = lrate_field("5e-5:5e-3:log")
    pretrained_weights: str = choice(
        "coco", "none", help="Published weights that the whole network starts from"
    )
    frozen_stages: int | None = frozen_stages_field("0:2:1")
    random_resize_lower: ImageSize | None = size(
        None,
        help="Pixels: smallest random size of training images, in the form of image_size; "
        "none is image_size",
    )
    random_resize_upper: ImageSize | None = size(
        None,
        help="Pixels: largest random size of training images, in the form of image_size; "
        "none is image_size",
    )
    load_from: str | None = text(
        None, help="Checkpoint to start from: coco, a URL, a path, runs:/... or models:/..."
    )
    base_model: str = base_model_field("none", [])
    continue_from_eid: str | None = text(None, help="Run id of an earlier training to continue")

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
    """Each rule of `find_problems`, also of a template's own, depends on values of one group only.

    A sweep tries the combinations of each group (detreg/sweeps/combinations.py), so a rule must be
    monotone in numbers and sizes, and may depend on a text only by whether it is empty.
    """

    @property
    def images_per_step(self) -> int:
        """`batch_size` as a number.

        Raises:
            ValueError: it is still `auto`.
        """
        return _require_number("batch_size", self.batch_size)

    @property
    def learning_rate(self) -> float:
        """The rate of one optimizer step, before the schedule.

        Raises:
            ValueError: batch_size or per_item_lrate is still `auto`.
        """
        return self.images_per_step * _require_number("per_item_lrate", self.per_item_lrate)

    @property
    def has_masks(self) -> bool:
        """Whether masks are trained beside boxes; not every template has `masks`."""
        return bool(getattr(self, "masks", False))

    @property
    def random_sizes(self) -> tuple[ImageSize, ImageSize]:
        """The smallest and largest size of training images."""
        lower = self.random_resize_lower or self.image_size
        upper = self.random_resize_upper or self.image_size
        return lower, upper

    @property
    def sources(self) -> dict[str, str]:
        """The parameters that name a source of weights, the strongest first."""
        sources: dict[str, str] = {}
        for name in (
            "continue_from_eid",
            "load_from",
            "pretrained_weights",
            "pretrain_base_data",
        ):
            value = getattr(self, name, None)  # not every template has pretrain_base_data
            if value and value != NONE:
                sources[name] = value
        return sources

    def find_problems(self) -> list[str]:
        """Return what is wrong with the combination of values, each of which is valid by itself."""
        return self._find_size_problems() + self._find_source_problems()

    def _find_size_problems(self) -> list[str]:
        lower, upper = self.random_sizes
        sizes = (self.image_size, lower, upper)

        if self.keep_aspect_ratio and any(len(value) == 2 for value in sizes):
            return [
                "width,height (in image_size, random_resize_lower or random_resize_upper) is "
                "allowed with keep_aspect_ratio=false only: give one number, the smaller side, "
                "or add keep_aspect_ratio=false"
            ]

        if len({len(value) for value in sizes}) > 1:
            return [
                "random_resize_lower and random_resize_upper must have the form of image_size: "
                "one number, or width,height"
            ]

        if any(low > high for low, high in zip(lower, upper, strict=True)):
            return [
                f"random_resize_lower={_format_size(lower)} must not be above "
                f"random_resize_upper={_format_size(upper)} (each defaults to image_size)"
            ]
        return []

    def _find_source_problems(self) -> list[str]:
        problems = []
        if self.continue_from_eid and self.load_from:
            problems.append(
                "continue_from_eid and load_from both say where to start: give one of them"
            )
        if self.frozen_stages and not self.sources:
            problems.append(
                f"frozen_stages={self.frozen_stages} with pretrained_weights=none would freeze "
                "random weights: set frozen_stages=0 or a source of weights"
            )
        return problems


def _require_number(name: str, value: N | None) -> N:
    if value is None:
        raise ValueError(f"{name}=auto has no number yet: call Template.resolve(params) first")
    return value


def _format_size(value: ImageSize) -> str:
    return ",".join(str(side) for side in value)
