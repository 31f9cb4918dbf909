"""Videos: what is read of them, and what `detreg predict` writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from toy_detector import draw_image, encode_image, write_toy_model

from detreg.errors import DataError, DiskError, UsageError
from detreg.tasks import video_files
from detreg.tasks.images import find_images
from detreg.tasks.predict import PredictRequest, predict_images
from detreg.tasks.predict_result import PredictResult
from detreg.tasks.video_files import VideoReader, VideoWriter

NUM_FRAMES = 20
RATE = 10.0
PLAYLIST = (
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
)


def write_video(path: Path, num_frames: int = NUM_FRAMES) -> Path:
    """Write a video of a box that moves to the right by two pixels in each frame."""
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, RATE, (64, 64))
    for index in range(num_frames):
        image = draw_image(64, 64, (4 + 2 * index, 10, 14 + 2 * index, 30))
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def count_frames(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., PredictRequest]:
    model = write_toy_model(tmp_path / "toy.onnx")

    def make(*names: Path | str, format: str = "coco") -> PredictRequest:
        return PredictRequest(str(model), [*map(str, names)], tmp_path / "out", 0.6, format=format)

    return make


@pytest.fixture
def fast_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write videos with the codec that takes a hundredth of the time."""
    monkeypatch.setattr(video_files, "CODECS", ("mp4v",))


def test_each_frame_has_a_line_and_is_drawn(
    request_of: Callable[..., PredictRequest], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "moving.avi", 5)
    result = predict_images(request_of(video))
    lines = read_lines(tmp_path / "out" / "0001_moving.jsonl")
    assert [line["frame"] for line in lines] == list(range(5))
    assert [line["seconds"] for line in lines] == [0, 0.1, 0.2, 0.3, 0.4]
    for index, line in enumerate(lines):
        assert line["class_names"] == ["boat"]
        assert line["labels"] == [0]
        x1, y1, x2, y2 = line["boxes"][0]
        expected = (4 + 2 * index, 10, 14 + 2 * index, 30)
        assert (x1, y1, x2, y2) == pytest.approx(expected, abs=2)

    drawn = cv2.VideoCapture(str(tmp_path / "out" / "0001_moving.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(RATE)
    is_read, frame = drawn.read()
    assert is_read
    # Enlarged for its labels, with the box in the color of its class, blue.
    assert frame.shape == (640, 640, 3)
    assert np.abs(frame[200, 141].astype(int) - (178, 114, 0)).max() < 90
    assert result.describe().splitlines()[0] == (
        "5 boxes (boat 5) on 5 frames of 1 video, from a score of 0.6 on"
    )
    assert json.loads(result.file.read_text()) == []


def test_what_browsers_may_not_play_is_told(
    request_of: Callable[..., PredictRequest], tmp_path: Path, fast_codec: None
) -> None:
    result = predict_images(request_of(write_video(tmp_path / "a.mp4", 2)))
    assert "browsers may not play it" in result.describe().splitlines()[-1]


def test_images_and_videos_of_a_folder(
    request_of: Callable[..., PredictRequest],
    tmp_path: Path,
    fast_codec: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode_image(draw_image(64, 64, (10, 10, 30, 30))))
    write_video(folder / "b.MP4")
    assert find_images([str(folder)]) == [folder / "a.png"]

    result = predict_images(request_of(folder))
    assert "on 1 image and 20 frames of 1 video" in result.describe()
    assert len(json.loads(result.file.read_text())) == 1
    progress = capsys.readouterr().err.splitlines()
    assert len(progress) == 10
    assert progress[-1] == "predicted 20 of 20 frames of b.MP4"


def test_a_few_frames_are_in_memory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "a.avi")
    with VideoReader(video) as reader:
        assert [len(batch) for batch in reader.read_batches()] == [8, 8, 4]
    monkeypatch.setattr(video_files, "BATCH_PIXELS", 3 * 64 * 64)
    with VideoReader(video) as reader:
        assert [len(batch) for batch in reader.read_batches()] == [3, 3, 3, 3, 3, 3, 2]
    monkeypatch.setattr(video_files, "BATCH_PIXELS", 1)
    with VideoReader(video) as reader:
        assert len(next(reader.read_batches())) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "this is not a video that is read"),
        (PLAYLIST, "this is not a video that is read"),
        (encode_image(draw_image(8, 8, (0, 0, 4, 4))), "this is not a video that is read"),
        (b"\0\0\0\x18ftypisom" + bytes(200), "the video cannot be opened"),
        (b"\x1a\x45\xdf\xa3" + b"\xff" * 200, "the video cannot be opened"),
        (b"RIFF\x00\x01\x00\x00AVI LIST" + b"\x01" * 300, "the video cannot be opened"),
    ],
)
def test_a_broken_video_is_told_and_the_others_are_predicted(
    content: bytes,
    reason: str,
    request_of: Callable[..., PredictRequest],
    tmp_path: Path,
    fast_codec: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content)
    result = predict_images(request_of(broken, write_video(tmp_path / "whole.avi", 2)))
    (problem,) = result.problems
    assert problem.startswith(f"{broken}: {reason}")
    assert "2 frames of 1 video" in result.describe()
    assert "1 file could not be read" in result.describe()
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["0002_whole.jsonl", "0002_whole.mp4", "predictions.json"]
    assert capfd.readouterr().err == "", "FFmpeg writes nothing itself"


def test_a_missing_end_is_told_and_what_is_there_is_kept(
    request_of: Callable[..., PredictRequest], tmp_path: Path, fast_codec: None
) -> None:
    video = write_video(tmp_path / "cut.avi", 40)
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    result = predict_images(request_of(video))
    (problem,) = result.problems
    assert "the video is damaged: " in problem and "of 40 frames could be read" in problem
    lines = read_lines(tmp_path / "out" / "0001_cut.jsonl")
    assert 10 < len(lines) < 36
    assert count_frames(tmp_path / "out" / "0001_cut.mp4") == len(lines)


def test_an_interruption_keeps_what_was_written(
    request_of: Callable[..., PredictRequest],
    tmp_path: Path,
    fast_codec: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_frame = PredictResult.add_frame

    def interrupt(self: PredictResult, detections: Any) -> None:
        add_frame(self, detections)
        if self.num_frames == 11:
            raise KeyboardInterrupt

    monkeypatch.setattr(PredictResult, "add_frame", interrupt)
    with pytest.raises(KeyboardInterrupt):
        predict_images(request_of(write_video(tmp_path / "a.avi")))
    out = tmp_path / "out"
    assert len(read_lines(out / "0001_a.jsonl")) == 11
    assert count_frames(out / "0001_a.mp4") == 11
    assert json.loads((out / "predictions.json").read_text()) == []


def test_other_formats_label_images_only(
    request_of: Callable[..., PredictRequest], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "a.avi", 2)
    with pytest.raises(UsageError, match="is a video: leave it out"):
        predict_images(request_of(video, format="yolo"))


def test_frames_that_claim_too_many_pixels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_files, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(DataError, match="megapixels"):
        VideoReader(write_video(tmp_path / "a.avi", 2))


def test_a_frame_of_another_size_fits_the_video(tmp_path: Path, fast_codec: None) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", RATE, (64, 48))
    for width in (64, 32, 64):
        writer.write(np.zeros((48, width, 3), np.uint8))
    writer.close()
    assert count_frames(tmp_path / "a.mp4") == 3


def test_no_encoder_at_all_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_files, "CODECS", ("none",))
    with pytest.raises(DiskError, match="cannot write this video"):
        VideoWriter(tmp_path / "a.mp4", RATE, (64, 48))
