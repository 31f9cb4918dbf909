"""Measure the memory and the time that `detreg predict` takes for videos of several lengths.

    python benchmarks/video.py MODEL [--frames 20 100 400] [--size 640 480]

Each video is drawn: the sample's landscapes, moved by a pixel in each frame. Each is predicted in a
process of its own, on the CPU. Memory that grows with the number of frames would show here.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from detreg.data.sample import draw_scene
from detreg.image_decoding import decode_bgr

CHECKOUT = Path(__file__).parents[1]
FRAMES_OF_A_SCENE = 40

# Runs detreg, and prints the largest memory of the process in KiB and its processor time.
CHILD = """
import resource, sys
from detreg import cli
code = cli.run(sys.argv[1:])
usage = resource.getrusage(resource.RUSAGE_SELF)
print("measured", code, usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
"""


def write_video(path: Path, num_frames: int, size: tuple[int, int]) -> None:
    """Write a video of landscapes that pass by."""
    width, height = size
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25.0, size)
    for index in range(num_frames):
        scene, shift = divmod(index, FRAMES_OF_A_SCENE)
        if shift == 0:
            content = draw_scene(scene, 1, (width + FRAMES_OF_A_SCENE, height)).content
            assert isinstance(content, bytes)
            landscape = decode_bgr(content)
        writer.write(np.ascontiguousarray(landscape[:, shift : shift + width]))
    writer.release()


def measure(model: str, video: Path, out: Path) -> str:
    """Predict on a video in a process of its own, and return its figures as cells of a table."""
    words = ["predict", model, str(video), "--out", str(out)]
    begin = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    wall = time.monotonic() - begin
    _, code, kibibytes, processor = process.stdout.splitlines()[-1].split()
    assert code == "0", process.stderr
    (drawn,) = out.glob("*.mp4")
    return (
        f"{int(kibibytes) / 1024:.0f} MiB | {wall:.1f} s | {float(processor):.1f} s | "
        f"{drawn.stat().st_size / 1024:.0f} KiB"
    )


def main() -> None:
    """Print a row for each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--frames", type=int, nargs="+", default=[20, 100, 400])
    parser.add_argument("--size", type=int, nargs=2, default=[640, 480])
    arguments = parser.parse_args()
    width, height = arguments.size

    print("frames | peak memory | time | processor time | annotated video")
    with tempfile.TemporaryDirectory() as folder:
        for num_frames in arguments.frames:
            video = Path(folder) / f"{num_frames}.mp4"
            write_video(video, num_frames, (width, height))
            out = Path(folder) / f"out_{num_frames}"
            print(num_frames, "|", measure(arguments.model, video, out), flush=True)


if __name__ == "__main__":
    main()
