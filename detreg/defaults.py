"""Defaults that the command line, training, export and serving share. Standard library only."""

SCORE_THRESHOLD = 0.05
"""Lowest score that a served model reports, unless it is exported or asked with another one."""

MAX_IMAGE_SIZE = 2048
"""Largest image_size, in pixels; a side that is larger has no place in training or in a card."""

MAX_ASPECT_RATIO = 5.0
"""Largest max_aspect_ratio."""

MAX_DETECTIONS = 100
"""Most detections of one image that are reported, unless a caller asks for another number."""
