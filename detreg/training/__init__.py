"""Training with MMDetection and MMEngine, which only this package imports.

Importing it puts torchvision's operators behind the names that mmcv's compiled extension would
have. That must happen before the first import of mmcv or mmdet, which look these names up.
"""

from detreg.training import mmcv_ops

mmcv_ops.install()
