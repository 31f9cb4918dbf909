"""Reads and writes the frames of video files with OpenCV, a few of them at once."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt

from detreg.defaults import MAX_PIXELS
from detreg.errors import DataError, DiskError
from detreg.files import open_regular

# FFmpeg, which OpenCV reads and writes videos with, looks at this before its first file. Without
# it, it writes lines of its own to the screen.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

BATCH_FRAMES = 8
BATCH_PIXELS = 16_000_000
"""Most frames, and about most pixels of all frames, that are in memory at once."""
USUAL_RATE = 25.0
MAX_RATE = 1000.0
"""Frames in a second where a file states none that can be, and the most that can be."""
WHOLE_SHARE = 0.9
"""Of the stated frames, under which a file is damaged; the number is rarely exact."""

CODECS = ("avc1", "vp09", "mp4v")
"""H.264, VP9 and MPEG-4 Part 2 in an mp4, in the order in which they are tried.

Every browser plays the first two. OpenCV's own builds have VP9; H.264 has to come from the machine.
"""
PLAYED_BY_BROWSERS = ("avc1", "vp09")

_HEAD = 16
_MATROSKA = b"\x1a\x45\xdf\xa3"
_SIGNATURES = (
    (4, b"ftyp"),  # MP4, QuickTime
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (4, b"free"),
    (4, b"skip"),
    (0, _MATROSKA),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),  # MPEG video
    (0, b"\x47"),  # MPEG transport stream
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF, WMV
)
"""At which byte a kind of video file has which bytes.

FFmpeg also opens playlists, which name other files and servers, whatever the suffix. They have
other first bytes.
"""


@dataclass(frozen=True)
class Frame:
    """A frame: its place in the video from 0, its time in seconds, its pixels.

    `image` is uint8 (height, width, 3) in RGB, upright.
    """

    index: int
    seconds: float
    image: npt.NDArray[np.uint8]


class VideoReader:
    """An open video file.

    rate: frames in a second. num_frames: as the file states it, 0 where it does not.

    Raises DataError for anything but a video that can be decoded.
    """

    def __init__(self, path: Path) -> None:
        try:
            with open_regular(path) as file:
                head = file.read(_HEAD)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        if not any(head[start:].startswith(mark) for start, mark in _SIGNATURES):
            raise DataError(f"{path}: this is not a video that is read: convert it to mp4")

        self._path = path
        self._states_frames = not head.startswith(_MATROSKA)
        _silence_opencv()
        # An absolute path cannot be taken for a URL.
        self._capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        width = self._get(cv2.CAP_PROP_FRAME_WIDTH)
        height = self._get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not self._capture.isOpened() or width < 1 or height < 1:
            raise DataError(
                f"{path}: the video cannot be opened: it is damaged, or of a kind that OpenCV does "
                "not decode; convert it to mp4 with H.264"
            )
        if width * height > MAX_PIXELS:
            raise DataError(
                f"{path}: frames of more than {MAX_PIXELS // 1_000_000} megapixels; make it smaller"
            )

        rate = self._get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= MAX_RATE else USUAL_RATE
        self.num_frames = max(int(self._get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self._batch_frames = min(max(BATCH_PIXELS // int(width * height), 1), BATCH_FRAMES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._capture.release()

    def read_batches(self) -> Iterator[list[Frame]]:
        """Yield all frames, a few at once. Raises DataError where the file ends before its frames.

        What could be read has been yielded by then.
        """
        index = 0
        batch: list[Frame] = []
        while (image := self._read()) is not None:
            seconds = self._get(cv2.CAP_PROP_POS_MSEC) / 1000
            batch.append(Frame(index, seconds, image))
            index += 1
            if len(batch) == self._batch_frames:
                yield batch
                batch = []
        if batch:
            yield batch

        if index == 0 or (self._states_frames and index < WHOLE_SHARE * self.num_frames):
            stated = f" of {self.num_frames}" if self.num_frames else ""
            raise DataError(
                f"{self._path}: the video is damaged: {index}{stated} frames could be read"
            )

    def _read(self) -> npt.NDArray[np.uint8] | None:
        """Return the next frame in RGB, None after the last one."""
        try:
            is_read, bgr = self._capture.read()
        except cv2.error:
            return None
        if not is_read or bgr is None:
            return None
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)

    def _get(self, property: int) -> float:
        """Return a number that the file states, 0 where it is none."""
        value = float(self._capture.get(property))
        return value if math.isfinite(value) else 0.0


class VideoWriter:
    """An mp4 that is being written; its size is that of its first frame.

    codec: one of `CODECS`, the first one that OpenCV has an encoder for. Close it in any case: a
    file that is not closed cannot be played. Raises DiskError where nothing can be written.
    """

    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        _silence_opencv()
        self._size = size
        for codec in CODECS:
            self.codec = codec
            code = cv2.VideoWriter.fourcc(*codec)
            self._writer = cv2.VideoWriter(str(path.absolute()), cv2.CAP_FFMPEG, code, rate, size)
            if self._writer.isOpened():
                return
        raise DiskError(f"{path}: OpenCV cannot write this video: name another folder")

    @property
    def is_played_by_browsers(self) -> bool:
        """Whether the codec is one that every browser plays."""
        return self.codec in PLAYED_BY_BROWSERS

    def write(self, image: npt.NDArray[np.uint8]) -> None:
        """Add a frame, uint8 (height, width, 3) in RGB."""
        height, width = image.shape[:2]
        # A few videos change their size on the way; a file has one.
        if (width, height) != self._size:
            image = np.asarray(cv2.resize(image, self._size), np.uint8)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.release()


def _silence_opencv() -> None:
    """Keep OpenCV from writing lines of its own for broken files and missing encoders."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
