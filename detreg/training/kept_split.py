"""Which pixels of a split are kept, in a file of which name and size."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from detreg.data.dataset import Dataset
from detreg.inference.preprocessing import Preprocessing
from detreg.templates.config import Config
from detreg.training.image_cache import ImageCacheSpec
from detreg.training.image_cache_file import name_image_file


@dataclass(frozen=True)
class KeptSplit:
    """A split whose images are kept by the run option `cache`, `mode`.

    share: the part that the split has of the images that are kept.
    """

    mode: str
    annotations: Path
    images: int
    share: float

    def plan_decoded(self) -> Config:
        """Return the plain values of a cache of images as they are decoded."""
        images = json.loads(self.annotations.read_text())["images"]
        largest = max(image["width"] * image["height"] for image in images)
        return self._plan("decoded", largest)

    def plan_resized(self, preprocessing: Preprocessing) -> Config:
        """Return the plain values of a cache of images that are resized for the network."""
        exact_size = preprocessing.exact_size
        width, height = exact_size or preprocessing.limits
        kind = "exactly" if exact_size else "at most"
        return self._plan(f"resized to {kind} {width}x{height}", width * height)

    def _plan(self, size: str, pixels: int) -> Config:
        spec = ImageCacheSpec(
            mode=self.mode,
            name=name_image_file(self.annotations, size),
            images=self.images,
            image_bytes=3 * pixels,
            share=self.share,
        )
        return asdict(spec)


def make_kept_split(mode: str, dataset: Dataset, name: str) -> KeptSplit | None:
    """Return how the images of a training's split are kept; None for cache=off."""
    if mode == "off":
        return None
    split = dataset.splits[name]
    all_images = dataset.splits["train"].images + dataset.splits["val"].images
    return KeptSplit(mode, split.annotations, split.images, split.images / all_images)
