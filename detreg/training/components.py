"""Parts that MMEngine builds by name from the composed configuration."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Resize
from mmdet.registry import DATA_SAMPLERS, HOOKS, METRICS, TRANSFORMS
from mmengine.dist import get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import score
from detreg.inference.detections import MAX_DETECTIONS, Detections
from detreg.inference.preprocessing import Preprocessing
from detreg.training.distributed import unwrap


def seeds_of(*numbers: int, count: int = 1) -> list[int]:
    """Seeds for something random that `numbers` name: the training's seed, and an epoch or a step.

    So an epoch is the same whether or not the training was interrupted before it.
    """
    return np.random.SeedSequence(numbers).generate_state(count).tolist()


def seed_everything(seed: int) -> None:
    """Seeds python's, numpy's and torch's random numbers."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeededIndex(int):
    """The number of an image that a sampler has drawn, with the seed of what is random about its picture."""

    seed: int

    def __new__(cls, image: int, seed: int = 0) -> "SeededIndex":
        """`seed` is left out by pickle, which restores it afterwards."""
        draw = super().__new__(cls, image)
        draw.seed = seed
        return draw


@TRANSFORMS.register_module()
class SeedPicture:
    """Seeds the transforms of a drawn picture, the first of which it is.

    The picture is then the same whichever process loads it, however many there are. MMEngine hands an image's number on as `sample_idx`;
    pictures that Mosaic and MixUp add come under plain numbers, and are part of what the drawn one's seed decides.
    """

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """`results` as they are."""
        if isinstance(drawn := results["sample_idx"], SeededIndex):
            seed_everything(drawn.seed)
        return results


@DATA_SAMPLERS.register_module()
class EpochSampler(torch.utils.data.Sampler[int]):
    """A fresh order every epoch; a dataset under `minimum` images is repeated, shuffled anew each time, until there are that many.

    Several processes share out each step's `batch_size` images.
    """

    def __init__(self, dataset: Any, minimum: int, batch_size: int, seed: int) -> None:
        self.rank, self.world_size = get_dist_info()
        self.images = len(dataset)
        self.total = max(self.images, minimum)
        last = self.total % batch_size or batch_size
        # A process without a picture could not take part in the epoch's last step.
        self.total += max(self.world_size - last, 0)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        first, *seeds = seeds_of(self.seed, self.epoch, count=self.total + 1)
        generator = torch.Generator().manual_seed(first)
        rounds = -(-self.total // self.images)
        order = torch.cat(
            [torch.randperm(self.images, generator=generator) for _ in range(rounds)]
        )[: self.total]
        drawn = [
            SeededIndex(image, seed) for image, seed in zip(order.tolist(), seeds, strict=True)
        ]
        return iter(drawn[self.rank :: self.world_size])

    def __len__(self) -> int:
        return len(range(self.rank, self.total, self.world_size))


def is_below(lower: Sequence[int], width: int, height: int) -> bool:
    """Whether an image is smaller than `lower`: its smaller side than one number, or both sides than width and height."""
    sides = (min(width, height),) if len(lower) == 1 else (width, height)
    return all(side < limit for side, limit in zip(sides, lower, strict=True))


@TRANSFORMS.register_module()
class RandomSize(Resize):
    """Resizes each training image to a random size from `lower` to `upper`, in steps of 32 pixels, as `preprocessing` says.

    The sizes are in the form of image_size: one number, or width and height. What lies below `lower` before any transform keeps its
    size, but its longer side is at most max_aspect_ratio times the smaller one, and it is enlarged to what the network can take. The
    choice comes from python's random numbers, which every image seeds, so that a continued training is exact.
    """

    def __init__(
        self,
        lower: Sequence[int],
        upper: Sequence[int],
        preprocessing: dict[str, Any],
        step: int = 32,
    ) -> None:
        super().__init__(scale=(1, 1))
        self.lower, self.upper, self.step = tuple(lower), tuple(upper), step
        self.preprocessing = Preprocessing(**preprocessing)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The image and its boxes, resized."""
        share = random.random()
        sides = []
        for low, high in zip(self.lower, self.upper, strict=True):
            steps = (high - low) // self.step
            sides.append(low + min(int(share * (steps + 1)), steps) * self.step)
        self.scale, self.keep_ratio = self._target(tuple(sides), results)
        return super().transform(results)

    def _target(
        self, size: tuple[int, ...], results: dict[str, Any]
    ) -> tuple[tuple[int, int], bool]:
        """Either (width, height) and False, or the most of the (longer, smaller) side and True.

        What SSD's Expand and crop have made of an image is resized like the image itself.
        """
        height, width = results["ori_shape"]
        if not is_below(self.lower, width, height):
            wanted = replace(self.preprocessing, image_size=size)
            return wanted.exact_size or wanted.limits, wanted.keep_aspect_ratio
        smaller = max(min(width, height), self.preprocessing.smallest_input)
        own = replace(self.preprocessing, image_size=(smaller,), keep_aspect_ratio=True)
        if self.preprocessing.keep_aspect_ratio:
            return own.limits, True
        return own.resized(width, height), False


@TRANSFORMS.register_module()
class PadToCanvas(BaseTransform):
    """Pads an image right and below as it is padded when it is served; `fixed` is false where images have random sizes."""

    def __init__(self, preprocessing: dict[str, Any], fixed: bool) -> None:
        self.preprocessing = Preprocessing(**preprocessing)
        self.fixed = fixed

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The image on its canvas. As in MMDetection's Pad, `img_shape` becomes the canvas, to which boxes are clipped before NMS."""
        height, width = results["img"].shape[:2]
        canvas = (
            self.preprocessing.canvas(width, height)
            if self.fixed
            else self.preprocessing.padded(width, height)
        )
        results["img"] = self.preprocessing.pad(
            results["img"], canvas, self.preprocessing.pad_value[::-1]
        )  # mmcv reads blue first
        results["img_shape"] = results["pad_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class RandomMixedSize(RandomSize):
    """The same for the canvas of a mixed image, which is scaled as a whole. Plain epochs leave it out."""

    def _target(
        self, size: tuple[int, ...], results: dict[str, Any]
    ) -> tuple[tuple[int, int], bool]:
        height, width = results["img"].shape[:2]
        usual = self.preprocessing.image_size
        return (round(width * size[0] / usual[0]), round(height * size[-1] / usual[-1])), False


@HOOKS.register_module()
class PlainEpochsHook(Hook):
    """Leaves out the transforms that mix pictures in the last epochs, and turns on the head's L1 loss there (YOLOX).

    MMDetection's own hook switches once, at a certain epoch; this one looks every epoch, so a continued training switches too.
    """

    def __init__(self, epochs: int, skip: Sequence[str]) -> None:
        self.epochs = epochs
        self.skip = list(skip)

    def before_train_epoch(self, runner: Runner) -> None:
        """Sets the transforms of the coming epoch; the loader's processes start after this."""
        plain = runner.epoch >= runner.max_epochs - self.epochs
        runner.train_dataloader.dataset._skip_type_keys = self.skip if plain else None
        head = unwrap(runner.model).bbox_head
        if hasattr(head, "use_l1"):
            head.use_l1 = plain


def norm_single_values(network: nn.Module) -> None:
    """Lets batch-norms meet a single value per channel while training, which is normed by the statistics so far.

    PyTorch refuses it. It happens on SSD's last map of one cell when a batch, often the epoch's last, has one picture.
    """

    def before(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        norm.single_value = norm.training and inputs[0].numel() == inputs[0].shape[1]
        norm.training &= not norm.single_value

    def after(norm: Any, inputs: Any, output: Tensor) -> None:  # noqa: ARG001
        norm.training |= norm.single_value

    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)


def keep_statistics(network: nn.Module) -> None:
    """Let no batch-norm update its running statistics while training, for a learning rate of 0 trains nothing."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False


def detections(
    sample: dict[str, Any], classes: Sequence[str], limit: int | None = MAX_DETECTIONS
) -> Detections:
    """What MMDetection predicted for one image, best first and at most `limit`, in detreg's type."""
    predicted = sample["pred_instances"]
    scores, order = predicted["scores"].detach().float().cpu().sort(descending=True, stable=True)
    order = order[:limit]
    boxes, labels = (predicted[name].detach().cpu()[order] for name in ("bboxes", "labels"))
    height, width = sample["ori_shape"]
    return Detections.within(
        boxes.float().numpy(),
        scores[:limit].numpy(),
        labels.long().numpy(),
        tuple(classes),
        (width, height),
    )


@METRICS.register_module()
class CocoScores(BaseMetric):
    """COCO's box mAP after each epoch, by the code that scores the exported model too."""

    default_prefix = "val"

    def __init__(self, annotations: str) -> None:
        super().__init__(
            collect_device="gpu"
        )  # by messages; "cpu" is by files in the working folder
        self.truth = GroundTruth.load(Path(annotations))

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:  # noqa: ARG002
        """Keeps a batch's detections."""
        self.results.extend(
            (sample["img_id"], detections(sample, self.dataset_meta["classes"]))
            for sample in data_samples
        )

    def compute_metrics(self, results: list[tuple[int, Detections]]) -> dict[str, float]:
        """`mAP`, `mAP_50` ... as fractions; what COCO leaves undefined is absent."""
        return score(self.truth, dict(results)).as_metrics()
