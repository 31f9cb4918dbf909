"""Training with MMDetection and MMEngine, which only this package imports.

Importing it puts torchvision's operators behind the names that mmcv's compiled extension would have, before mmdet asks for them.
"""

from detreg.training import mmcv_ops

mmcv_ops.install()
