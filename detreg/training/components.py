"""Parts that MMEngine builds by name from the composed configuration."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATA_SAMPLERS, HOOKS, METRICS, MODELS
from mmengine.dist import get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.functional import interpolate

from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.scores import score
from detreg.inference.detections import MAX_DETECTIONS, Detections


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of everything random in an epoch, so that an epoch is the same whether or not the training was interrupted before it."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:  # noqa: ARG001
    """Seeds a loader's process from torch's, which differs by worker and by epoch; MMEngine's default repeats itself every epoch."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


@DATA_SAMPLERS.register_module()
class EpochSampler(torch.utils.data.Sampler[int]):
    """A fresh order every epoch; a dataset under `minimum` images is repeated, shuffled anew each time, until there are that many."""

    def __init__(self, dataset: Any, minimum: int, seed: int) -> None:
        self.images = len(dataset)
        self.total = max(self.images, minimum)
        self.seed = seed
        self.epoch = 0
        self.rank, self.world_size = get_dist_info()

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        rounds = -(-self.total // self.images)
        order = torch.cat([torch.randperm(self.images, generator=generator) for _ in range(rounds)])[: self.total]
        return iter(order[self.rank :: self.world_size].tolist())

    def __len__(self) -> int:
        return len(range(self.rank, self.total, self.world_size))


@MODELS.register_module()
class RandomBatchResize(nn.Module):
    """Resizes each training batch to a random size between `lower` and `upper` on a grid of 32 pixels, relative to `image_size`.

    The size comes from python's random numbers alone, which every epoch seeds, so that a continued training is exact.
    """

    def __init__(self, lower: Sequence[int], upper: Sequence[int], image_size: Sequence[int], divisor: int = 32) -> None:
        super().__init__()
        self.ranges = [(low // divisor, high // divisor, size) for low, high, size in zip(lower, upper, image_size, strict=True)]
        self.divisor = divisor

    def forward(self, inputs: Tensor, data_samples: list[Any]) -> tuple[Tensor, list[Any]]:
        """`inputs` (n, 3, h, w) and the boxes of `data_samples`, both resized."""
        height, width = inputs.shape[-2:]
        factors = [random.randint(low, high) * self.divisor / size for low, high, size in self.ranges]
        new_w, new_h = (
            max(1, round(side * factor / self.divisor)) * self.divisor for side, factor in ((width, factors[0]), (height, factors[-1]))
        )
        if (new_h, new_w) == (height, width):
            return inputs, data_samples
        scale = inputs.new_tensor([new_w / width, new_h / height, new_w / width, new_h / height])
        inputs = interpolate(inputs, size=(new_h, new_w), mode="bilinear", align_corners=False)
        for sample in data_samples:
            sample.set_metainfo({"img_shape": (new_h, new_w), "pad_shape": (new_h, new_w), "batch_input_shape": (new_h, new_w)})
            for instances in (sample.gt_instances, sample.get("ignored_instances")):
                if instances is not None:
                    instances.bboxes = instances.bboxes * scale
        return inputs, data_samples


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
        model = runner.model.module if hasattr(runner.model, "module") else runner.model
        model.bbox_head.use_l1 = plain


def detections(sample: dict[str, Any], classes: Sequence[str]) -> Detections:
    """What MMDetection predicted for one image, best first, in detreg's type."""
    predicted = sample["pred_instances"]
    scores, order = predicted["scores"].detach().float().cpu().sort(descending=True, stable=True)
    order = order[:MAX_DETECTIONS]
    boxes, labels = (predicted[name].detach().cpu()[order] for name in ("bboxes", "labels"))
    height, width = sample["ori_shape"]
    return Detections.within(boxes.float().numpy(), scores[:MAX_DETECTIONS].numpy(), labels.long().numpy(), tuple(classes), (width, height))


@METRICS.register_module()
class CocoScores(BaseMetric):
    """COCO's box mAP after each epoch, by the code that scores the exported model too."""

    default_prefix = "val"

    def __init__(self, annotations: str) -> None:
        super().__init__()
        self.truth = GroundTruth.load(Path(annotations))

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:  # noqa: ARG002
        """Keeps a batch's detections."""
        self.results.extend((sample["img_id"], detections(sample, self.dataset_meta["classes"])) for sample in data_samples)

    def compute_metrics(self, results: list[tuple[int, Detections]]) -> dict[str, float]:
        """`mAP`, `mAP_50` ... as fractions; what COCO leaves undefined is absent."""
        return score(self.truth, dict(results)).as_metrics()
