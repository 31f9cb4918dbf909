"""The hook that ends the mixing of images before the training ends."""

from collections.abc import Sequence

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from detreg.training.distributed import unwrap


@HOOKS.register_module()
class PlainEpochsHook(Hook):
    """Leaves out the transforms named in `skip`, which mix images, in the last `epochs` epochs.

    YOLOX's head adds its L1 loss in the same epochs. MMDetection's YOLOXModeSwitchHook does this
    once, at a certain epoch; this hook looks at every epoch, so that a training that was resumed
    later than that switches too.
    """

    def __init__(self, epochs: int, skip: Sequence[str]) -> None:
        self.epochs = epochs
        self.skip = tuple(skip)

    def before_train_epoch(self, runner: Runner) -> None:
        """Choose the transforms and losses of the coming epoch, before its first image is drawn."""
        is_plain = runner.epoch >= runner.max_epochs - self.epochs

        # The sampler tells the dataset with each index. The dataset itself is out of reach: the
        # loader's processes have copies of it, and live longer than an epoch.
        runner.train_dataloader.sampler.skip = self.skip if is_plain else ()

        head = unwrap(runner.model).bbox_head
        if hasattr(head, "use_l1"):
            head.use_l1 = is_plain
