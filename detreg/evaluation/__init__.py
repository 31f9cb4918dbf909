"""How good a detector is: COCO scores, what it found and missed, and a report worth looking at."""
