"""All cases.

`python tests/case_lists.py [NAMES]` (with the repository in PYTHONPATH) prints each case that does
not come out as wanted, and why.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cases_coco import COCO_CASES
from cases_coco_batches import COCO_BATCH_CASES
from cases_coco_values import COCO_VALUE_CASES
from cases_disk import DISK_CASES
from cases_foreign import FOREIGN_CASES
from cases_images import IMAGE_CASES
from cases_learning import LEARNING_CASES
from cases_matching import MATCHING_CASES
from cases_reported import REPORTED_CASES
from cases_voc import VOC_CASES
from cases_voc_values import VOC_VALUE_CASES
from cases_yolo import YOLO_CASES
from cases_yolo_labels import YOLO_LABEL_CASES
from cases_yolo_lists import YOLO_LIST_CASES
from dataset_cases import Case, find_fault

CASES = [
    *REPORTED_CASES,
    *COCO_CASES,
    *COCO_BATCH_CASES,
    *COCO_VALUE_CASES,
    *VOC_CASES,
    *VOC_VALUE_CASES,
    *YOLO_CASES,
    *YOLO_LIST_CASES,
    *YOLO_LABEL_CASES,
    *MATCHING_CASES,
    *LEARNING_CASES,
    *DISK_CASES,
    *FOREIGN_CASES,
    *IMAGE_CASES,
]


def print_faults(cases: Sequence[Case], names: Sequence[str]) -> None:
    """Print each case that does not come out as wanted."""
    chosen = [case for case in cases if not names or case.id in names]
    faults = 0
    for case in chosen:
        with tempfile.TemporaryDirectory() as folder:
            try:
                fault = find_fault(case, Path(folder))
            except Exception as error:  # exit 70
                fault = f"EXIT 70: {error!r}"
        if fault:
            faults += 1
            print(f"{case.id}: {fault}".replace("\n", " / "))
    print(f"{len(chosen) - faults} of {len(chosen)} as wanted")


if __name__ == "__main__":
    print_faults(CASES, sys.argv[1:])
