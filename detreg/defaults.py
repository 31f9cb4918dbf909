"""Defaults that the command line, training, export and serving share. Standard library only."""

SCORE_THRESHOLD = 0.05
"""Lowest score that a model reports where no operating point says another one."""

MAX_IMAGE_SIZE = 2048
"""Largest image_size, in pixels; a side that is larger has no place in training or in a card."""

MAX_ASPECT_RATIO = 5.0
"""Largest max_aspect_ratio."""

MAX_PIXELS = 100_000_000
"""Most pixels of an image that is checked, trained on, predicted or served.

A file of a few kilobytes can claim to hold an image that fills the memory, so what its header
states is compared with this before anything is decoded.
"""

MAX_IMAGE_BYTES = 1 << 29
"""Most bytes of an image file: more than so many pixels need without compression."""

MAX_DETECTIONS = 100
"""Most detections of one image that are reported, unless a caller asks for another number."""

FEW_IMAGES = "few_images"
PUBLISHED = "published"
"""The values of the run option `recipe`."""

BOX_METRIC = "mAP"
MASK_METRIC = "segm_mAP"
"""What a training may go by, as MLflow has it: the mAP of boxes, that of masks."""
