"""The speed of a model, measured within a time limit."""

from pathlib import Path

import pytest
from test_error_kinds import make_truth
from toy_detector import draw_image, encode_image, write_toy_model

from detreg.evaluation import model_speed
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.model_speed import BATCH_SIZES, MIN_RUNS, measure_speed
from detreg.evaluation.report_plots import show_speed
from detreg.inference.detector import Detector


@pytest.fixture
def truth(tmp_path: Path) -> GroundTruth:
    file = tmp_path / "image.png"
    file.write_bytes(encode_image(draw_image(40, 30, (5, 5, 20, 20))))
    image = {"id": 1, "file_name": str(file), "width": 40, "height": 30}
    categories = [{"id": 1, "name": "boat"}]
    return GroundTruth.load({"images": [image], "annotations": [], "categories": categories})


def test_each_batch_size_is_timed_until_time_is_up(
    truth: GroundTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_toy_model(tmp_path / "toy.onnx")
    monkeypatch.setattr(model_speed, "TIME_LIMIT", 0.0)
    monkeypatch.setattr(model_speed, "MAX_SECONDS", 1000.0)  # however busy the machine is
    speed = measure_speed(Detector.load(model), truth, num_bytes=2_500_000)

    assert speed is not None
    assert [batch.batch_size for batch in speed.batches] == list(BATCH_SIZES)
    for batch in speed.batches:
        assert batch.runs == MIN_RUNS
        assert 0 < batch.median <= batch.percentile_99

    section = show_speed(speed)
    assert [row["images in a batch"] for row in section.table] == ["1", "8"]
    assert "2.5 MB" in section.explanation


def test_a_slow_model_is_timed_with_one_image_at_a_time(
    truth: GroundTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_toy_model(tmp_path / "toy.onnx")
    monkeypatch.setattr(model_speed, "TIME_LIMIT", 0.0)
    monkeypatch.setattr(model_speed, "MAX_SECONDS", 0.0)
    speed = measure_speed(Detector.load(model), truth)

    assert speed is not None
    assert [batch.batch_size for batch in speed.batches] == [1]


def test_a_split_without_images_is_not_timed(tmp_path: Path) -> None:
    model = write_toy_model(tmp_path / "toy.onnx")
    assert measure_speed(Detector.load(model), make_truth({})) is None
    assert show_speed(None).is_empty
