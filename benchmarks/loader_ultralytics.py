"""Loads images with Ultralytics' training loader, for benchmarks/loader.py, which starts this.

Runs in an environment with ultralytics and psutil, without detreg. Reads one line of JSON with the
settings, then answers each further line, the most images to load, with the usage of an epoch, as a
line of JSON.
"""

import json
import sys
import time

import psutil
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_dataloader, build_yolo_dataset
from ultralytics.data.utils import check_det_dataset


def main() -> None:
    """Build the loader, and load an epoch for each line."""
    settings = json.loads(sys.stdin.readline())
    data = check_det_dataset(settings["data"], autodownload=False)
    # The strengths of YOLOX's recipe, as far as Ultralytics has them.
    strengths = {"mosaic": 1.0, "mixup": settings["mixup"], "degrees": 10, "shear": 2}
    config = get_cfg(
        overrides={
            "imgsz": settings["image_size"],
            "cache": settings["cache"] or False,
            "workers": settings["processes"],
            **strengths,
        }
    )
    batch = settings["batch_size"]
    images = build_yolo_dataset(config, data["train"], batch, data, mode="train")
    loader = build_dataloader(images, batch, settings["processes"], shuffle=True)

    for line in sys.stdin:
        before = get_cpu_seconds()
        begun = time.perf_counter()
        count = 0
        for loaded in loader:
            count += len(loaded["img"])
            if count >= int(line):
                break
        usage = {
            "images": count,
            "cpu": get_cpu_seconds() - before,
            "wall": time.perf_counter() - begun,
            "memory": get_memory(),
        }
        print(json.dumps(usage), flush=True)


def get_cpu_seconds() -> float:
    """Return the CPU time of this process and of the loader's, which live on."""
    return sum(sum(process.cpu_times()[:2]) for process in list_processes())


def get_memory() -> float:
    """Return the MiB of the loader's processes, shared ones in parts (PSS)."""
    own, *others = list_processes()
    return sum(process.memory_full_info().pss for process in others or [own]) / 2**20


def list_processes() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


if __name__ == "__main__":
    main()
