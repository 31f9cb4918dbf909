"""One network of a template, with the weights and the figures that were published for it."""

from dataclasses import dataclass

from detreg.templates.input_spec import InputSpec
from detreg.templates.recipe import Recipe

_HUB = "https://download.openmmlab.com/mmdetection/v2.0"


@dataclass(frozen=True)
class PublishedFile:
    """A file to download, and how to verify it."""

    url: str
    sha256: str
    """The file's sha256 or the first digits of it, as in the names of OpenMMLab's files."""


def openmmlab_file(family: str, training: str, stamp: str) -> PublishedFile:
    """Declare a checkpoint on OpenMMLab's server.

    `stamp` is the time of the training with the first eight digits of the file's sha256, such as
    `20200130-047c8118`.
    """
    url = f"{_HUB}/{family}/{training}/{training}_{stamp}.pth"
    _, _, sha256 = stamp.rpartition("-")
    return PublishedFile(url, sha256)


@dataclass(frozen=True, kw_only=True)
class MaskModel:
    """What was published for a base model with masks."""

    config: str
    """The packaged MMDetection configuration of the network with masks."""
    coco_weights: PublishedFile
    """COCO weights of boxes and masks in MMDetection's layout."""


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
    """The smallest side of an input, in pixels, that leaves no map of the network empty."""
    coco_weights: PublishedFile | None = None
    """COCO weights in MMDetection's layout; None if nobody published any."""
    coco_ap: float | None = None
    """COCO val2017 box AP as published, in percent."""
    imagenet: str = ""
    """Library and name of ImageNet weights of the backbone, such as `timm:inception_v4.tf_in1k`."""
    masks: MaskModel | None = None
    """The published network with masks; None if nobody published one.

    A template that has masks all the same adds them to the network of boxes.
    """
    parameters: float
    """Millions of parameters at 80 classes and default hyperparameters; a test counts them."""
    gflops: float
    """Billions of multiply-adds for one square image of the default image_size; counted too."""
