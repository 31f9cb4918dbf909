"""Reading, resizing and padding of training images, as transforms that MMEngine builds by name.

They follow `decode_bgr` and `Preprocessing`, which read and prepare images for the served model, so
that training and serving see equal pixels.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS

from detreg.data.formats.coco_segmentation import parse_segmentation
from detreg.defaults import MAX_IMAGE_BYTES
from detreg.errors import DataError
from detreg.files import UnusableFileError, read_regular
from detreg.image_decoding import ImageFileError, decode_bgr
from detreg.inference.preprocessing import Preprocessing, pad_image
from detreg.templates.config import Config
from detreg.training.image_cache import Pixels, make_cache
from detreg.training.object_masks import ObjectMasks, make_matrix
from detreg.training.objects import clip_objects, get_objects, put_objects, scale_objects

Results = dict[str, Any]
"""An image with its boxes and sizes, as MMDetection passes it from transform to transform."""


def is_below_limit(limit: Sequence[int], width: int, height: int) -> bool:
    """Return whether an image is smaller than a size in the form of image_size.

    With one number the image's smaller side counts; with width and height, both sides must be
    below.
    """
    if len(limit) == 1:
        return min(width, height) < limit[0]
    return width < limit[0] and height < limit[1]


class ImageReadError(DataError):
    """An image that is not as it was when its boxes were checked.

    Torch makes an error of a loader's process anew in the main process, of the text of its
    traceback, which ends with the line of the error itself.
    """

    def __init__(self, problem: str) -> None:
        if "Original Traceback" in problem:
            last_line = problem.rstrip().rpartition("\n")[2]
            problem = last_line.partition(f"{type(self).__name__}: ")[2] or last_line
        super().__init__(problem)


@TRANSFORMS.register_module()
class LoadMasks(BaseTransform):
    """Adds the masks of an image's objects from its canonical file, beside their boxes."""

    def transform(self, results: Results) -> Results:
        """Add `gt_masks`, in the order of the boxes."""
        outlines = [parse_segmentation(instance.get("mask")) for instance in results["instances"]]
        results["gt_masks"] = ObjectMasks.make(outlines, results["height"], results["width"])
        return results


@TRANSFORMS.register_module()
class ReadImage(BaseTransform):
    """Reads an image as serving does: a uint8 array (height, width, 3) in BGR.

    In place of MMDetection's LoadImageFromFile, which has no limits and neither names an image that
    it cannot decode nor sees that one has changed since its boxes were checked. `cache` is an
    ImageCacheSpec in plain values.
    """

    def __init__(self, cache: Config | None = None) -> None:
        self.cache = make_cache(cache)

    def transform(self, results: Results) -> Results:
        """Add the pixels. Raises ImageReadError."""
        if self.cache is None:
            image = read_image(results)
        else:
            image = self.cache.load(
                int(results["sample_idx"]), results["img_path"], lambda: read_image(results)
            )

        results["img"] = image
        results["img_shape"] = image.shape[:2]
        results["ori_shape"] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class ReadResized(Resize):
    """Reads an image and resizes it, with its boxes, to the size that all images get.

    `cache` is an ImageCacheSpec in plain values. What it holds are resized images.
    """

    def __init__(self, scale: tuple[int, int], keep_ratio: bool, cache: Config | None) -> None:
        super().__init__(scale=scale, keep_ratio=keep_ratio)
        self.cache = make_cache(cache)

    def transform(self, results: Results) -> Results:
        """Add the resized pixels, and resize the boxes. Raises ImageReadError."""
        self._add_pixels(results)
        if "gt_bboxes" in results:  # an image to be scored has none
            height, width = results["img_shape"]
            objects = scale_objects(get_objects(results), *results["scale_factor"])
            put_objects(results, clip_objects(objects, width, height))
        return results

    def _add_pixels(self, results: Results) -> None:
        """Add the resized pixels, and what MMDetection's Resize says of them."""
        if self.cache is None:
            image = self._read_and_resize(results)
        else:
            image = self.cache.load(
                int(results["sample_idx"]),
                results["img_path"],
                lambda: self._read_and_resize(results),
            )

        height, width = image.shape[:2]
        original_width, original_height = results["width"], results["height"]
        results["img"] = image
        results["img_shape"] = (height, width)
        results["ori_shape"] = (original_height, original_width)
        results["scale_factor"] = (width / original_width, height / original_height)

    def _read_and_resize(self, results: Results) -> Pixels:
        """Return the pixels that MMDetection's Resize makes of the image."""
        image = {"img": read_image(results), "scale": self.scale}
        self._resize_img(image)
        pixels: Pixels = image["img"]
        return pixels


def read_image(results: Results) -> Pixels:
    """Return the pixels (height, width, 3), BGR, of an image of a dataset. Raises ImageReadError.

    Also where the image has another size than when its boxes were checked.
    """
    path = results["img_path"]
    try:
        image = decode_bgr(read_regular(path, MAX_IMAGE_BYTES))
    except FileNotFoundError as error:
        raise ImageReadError(f"{path}: the image is gone; restore it") from error
    except UnusableFileError as error:
        raise ImageReadError(str(error)) from error
    except ImageFileError as error:
        raise ImageReadError(f"{path}: {error}") from error

    height, width = image.shape[:2]
    expected_width = results.get("width", width)
    expected_height = results.get("height", height)
    if (width, height) != (expected_width, expected_height):
        raise ImageReadError(
            f"{path}: the image is {width}x{height} and was {expected_width}x{expected_height} "
            "when its boxes were checked; restore it, or start again"
        )
    return image


@TRANSFORMS.register_module()
class RandomSize(Resize):
    """Resizes each training image to a random size from `lower` to `upper`, in steps of `step` px.

    Sizes are in the form of image_size: one number, or width and height. An image that is below
    `lower` before any transform keeps its size, but its longer side is at most max_aspect_ratio
    times the smaller one, and it is enlarged to what the network can take.

    The size is drawn from Python's random numbers, which are seeded for every image (`SeedImage`),
    so that a resumed training is exact.
    """

    def __init__(
        self,
        lower: Sequence[int],
        upper: Sequence[int],
        preprocessing: Config,
        step: int = 32,
    ) -> None:
        super().__init__(scale=(1, 1))  # replaced for every image
        self.lower = tuple(lower)
        self.upper = tuple(upper)
        self.step = step
        self.preprocessing = Preprocessing(**preprocessing)

    def transform(self, results: Results) -> Results:
        """Resize the image and its objects."""
        size = self._draw_size()
        self.scale, self.keep_ratio = self._choose_scale(size, results)
        return super().transform(results)

    def _resize_masks(self, results: Results) -> None:
        """Scale masks as MMDetection's Resize has scaled the pixels and the boxes."""
        if "gt_masks" in results:
            scaling = make_matrix(*results["scale_factor"])
            results["gt_masks"] = results["gt_masks"].transform(scaling)

    def _draw_size(self) -> tuple[int, ...]:
        """Draw a size; width and height lie equally far between their limits."""
        share = random.random()

        size = []
        for low, high in zip(self.lower, self.upper, strict=True):
            steps = (high - low) // self.step
            chosen_step = min(int(share * (steps + 1)), steps)
            size.append(low + chosen_step * self.step)
        return tuple(size)

    def _choose_scale(
        self, size: tuple[int, ...], results: Results
    ) -> tuple[tuple[int, int], bool]:
        """Return `scale` and `keep_ratio` of MMDetection's Resize for the drawn size.

        With keep_ratio, `scale` limits the (longer, smaller) side; without, it is (width, height).
        The original size decides, so that what SSD's Expand and crop have made of an image is
        resized like the image itself.
        """
        height, width = results["ori_shape"]
        if not is_below_limit(self.lower, width, height):
            drawn = replace(self.preprocessing, image_size=size)
            return drawn.exact_size or drawn.limits, drawn.keep_aspect_ratio

        smaller_side = max(min(width, height), self.preprocessing.smallest_input)
        original = replace(self.preprocessing, image_size=(smaller_side,), keep_aspect_ratio=True)
        if self.preprocessing.keep_aspect_ratio:
            return original.limits, True
        return original.compute_resized_size(width, height), False


@TRANSFORMS.register_module()
class RandomMixedSize(RandomSize):
    """Resizes the canvas of mixed images as a whole, by a random size over the usual image_size.

    The last epochs leave it out together with the mixing (`PlainEpochsHook`).
    """

    def _choose_scale(
        self, size: tuple[int, ...], results: Results
    ) -> tuple[tuple[int, int], bool]:
        height, width = results["img"].shape[:2]
        usual = self.preprocessing.image_size

        new_width = round(width * size[0] / usual[0])
        new_height = round(height * size[-1] / usual[-1])
        return (new_width, new_height), False


@TRANSFORMS.register_module()
class PadToCanvas(BaseTransform):
    """Pads an image right and below, as it is padded when it is served.

    `fixed` is false where training images have random sizes: each then gets the smallest canvas
    that holds it, in place of the one canvas of the served model.
    """

    def __init__(self, preprocessing: Config, fixed: bool) -> None:
        self.preprocessing = Preprocessing(**preprocessing)
        self.fixed = fixed

    def transform(self, results: Results) -> Results:
        """Put the image on its canvas.

        As in MMDetection's Pad, `img_shape` becomes the canvas, to which boxes are clipped before
        NMS.
        """
        height, width = results["img"].shape[:2]
        if self.fixed:
            canvas = self.preprocessing.compute_canvas_size(width, height)
        else:
            canvas = self.preprocessing.compute_padded_size(width, height)

        bgr_pad_value = self.preprocessing.pad_value[::-1]  # mmcv reads images as BGR
        padded = pad_image(results["img"], canvas, bgr_pad_value)

        results["img"] = padded
        results["img_shape"] = padded.shape[:2]
        results["pad_shape"] = padded.shape[:2]
        if "gt_masks" in results:
            results["gt_masks"] = results["gt_masks"].pad(padded.shape[:2])
        return results
