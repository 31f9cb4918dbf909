"""Training with MMDetection and MMEngine, which only this package imports.

Importing it puts torchvision's operators behind the names that mmcv's compiled extension would
have. That must happen before the first import of mmcv or mmdet, which look these names up.
"""

from detreg.deferred_imports import defer_imports

# MMDetection's trackers and some losses that no template has, and torch's compiler.
with defer_imports(
    "matplotlib",
    "mmengine._strategy.fsdp",
    "mmengine.model.wrappers.fully_sharded_distributed",
    "mmengine.optim.optimizer.zero_optimizer",
    "scipy",
    "shapely",
    "sklearn",
    "torch._dynamo",
):
    from detreg.training import eager_optimizers, mmcv_ops

    mmcv_ops.install()
    eager_optimizers.install()

    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
