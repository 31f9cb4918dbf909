"""`detreg predict`: which files it takes, and what it writes and prints."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from test_cli import run_failing, run_printing
from toy_detector import draw_image, encode_image, write_toy_model

from detreg import cli
from detreg.errors import NotFoundError, UsageError
from detreg.inference.images import read_image
from detreg.signals import STOP_SIGNALS
from detreg.tasks import predict
from detreg.tasks.drawn_images import Pixels
from detreg.tasks.images import find_images
from detreg.tasks.predict import PredictRequest, predict_images

Capture = pytest.CaptureFixture[str]
BRIGHT = encode_image(draw_image(64, 64, (10, 10, 30, 30)))
DARK = encode_image(draw_image(64, 64, (10, 10, 30, 30), brightness=20))


@pytest.fixture(autouse=True)
def _restore_signal_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_toy_model(tmp_path / "toy.onnx"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder of two images, one in a folder of it, and of files that are none."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "more/a.PNG", ".hidden.png", "notes.txt"):
        (folder / name).write_bytes(BRIGHT)
    (folder / "folder.png").mkdir()
    return folder


def find_names(folder: Path, *names: str, left_out: Path | None = None) -> list[str]:
    found = find_images([f"{folder}/{name}" for name in names], left_out)
    return [str(path.relative_to(folder)) for path in found]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["."], ["b.png", "more/a.PNG"]),
        (["*.png"], ["b.png"]),
        (["**/*.[pP][nN][gG]"], ["b.png", "more/a.PNG"]),
        (["*"], ["b.png", "more/a.PNG"]),
        (["notes.txt", "more", "b.png"], ["notes.txt", "more/a.PNG", "b.png"]),
        (["b.png", ".", "b.p?g"], ["b.png", "more/a.PNG"]),
    ],
)
def test_files_folders_and_patterns(images: Path, names: list[str], found: list[str]) -> None:
    assert find_names(images, *names) == found


def test_a_file_whose_name_looks_like_a_pattern_is_taken(images: Path) -> None:
    (images / "a[1].png").write_bytes(BRIGHT)
    assert find_names(images, "a[1].png") == ["a[1].png"]


def test_what_was_written_before_is_not_predicted_again(images: Path) -> None:
    for names in (["."], ["**"], ["*"]):
        assert "more/a.PNG" not in find_names(images, *names, "b.png", left_out=images / "more")
    assert find_names(images, "more/a.PNG", left_out=images / "more") == ["more/a.PNG"]


def test_all_wrong_names_are_told_at_once(images: Path) -> None:
    names = [str(images), "https://host/a.jpg", "nowhere", "*.jpeg", "x" * 5000, "s3://a/b.png"]
    with pytest.raises(UsageError) as caught:
        find_images(names)
    assert [problem.split(":")[0] for problem in caught.value.problems[:2]] == ["https", "s3"]
    assert len(caught.value.problems) == 5
    assert "download it first" in caught.value.problems[0]


@pytest.mark.parametrize("name", ["more/deep", "*.jpg", "empty", "more/a.jpg"])
def test_no_image_is_a_clear_error(images: Path, name: str) -> None:
    (images / "empty").mkdir()
    with pytest.raises(NotFoundError) as caught:
        find_images([f"{images}/{name}"])
    assert name in str(caught.value)


def test_the_last_lines_have_the_counts(
    model: str, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    (images / "dark.png").write_bytes(DARK)
    out = tmp_path / "out"
    printed = run_printing(capsys, "predict", model, str(images), "--out", str(out))
    assert printed.splitlines() == [
        "4 boxes (boat 2, buoy 2) on 3 images, from a score of 0.3 on; nothing on 1 of them",
        f"{out}/predictions.json, and what was drawn beside it",
    ]

    rows = json.loads((out / "predictions.json").read_text())
    assert [row["image_id"] for row in rows] == [1, 1, 3, 3]
    assert list(rows[0]) == [
        "file_name", "image_id", "category_id", "category_name", "bbox", "score"
    ]  # fmt: skip
    assert rows[0]["bbox"] == [10, 10, 20, 20]
    drawn = sorted(path.name for path in out.glob("*.jpg"))
    assert drawn == ["0001_b.jpg", "0002_dark.jpg", "0003_a.jpg"]


def test_an_unreadable_image_is_told_and_the_others_are_predicted(
    model: str, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    (images / "a_broken.png").write_bytes(BRIGHT[:60])
    out = tmp_path / "out"
    code = cli.run(["predict", model, str(images), "--out", str(out)])
    printed = capsys.readouterr()
    assert code == 65
    assert "a_broken.png: " in printed.err
    assert "on 2 images, from a score of 0.3 on; 1 file could not be read" in printed.out
    assert len(json.loads((out / "predictions.json").read_text())) == 4
    assert len(list(out.glob("*.jpg"))) == 2


def test_refusals_come_before_the_model_is_loaded(images: Path, capsys: Capture) -> None:
    (problem,) = run_failing(capsys, ["predict", "nowhere.onnx", "http://host/a.jpg"], 2)
    assert "download it first" in problem


def test_a_prediction_does_not_wait_for_what_reads_datasets() -> None:
    script = "import sys, detreg.tasks.predict; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", script], text=True).split()
    assert "detreg.inference.detector" in modules
    unwanted = {"detreg.data", "torch", "mlflow", "matplotlib", "pandas", "supervision"}
    assert not unwanted.intersection(modules)


def test_a_format_is_written_beside(
    model: str, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    words = ["predict", model, str(images), "--out", str(out), "--format"]
    printed = run_printing(capsys, *words, "yolo")
    assert printed.splitlines()[-1] == f"{out}/yolo: labels to correct"
    (problem,) = run_failing(capsys, [*words, "kitti"], 2)
    assert "invalid choice: 'kitti'" in problem


def test_a_number_out_of_range_is_refused(
    model: str, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    argv = ["predict", model, str(images), "--out", str(tmp_path / "out"), "--score_threshold", "2"]
    (problem,) = run_failing(capsys, argv, 2)
    assert problem == "score_threshold must be between 0 and 1, got 2.0"
    assert not (tmp_path / "out").exists()


def test_an_interruption_keeps_the_images_before(
    model: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path) -> Pixels:
        if path.name == "a.PNG":
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(predict, "read_image", interrupt)
    request = PredictRequest(model, [str(images)], tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        predict_images(request)
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["image_id"] for row in rows] == [1, 1]


def test_a_log_file_gets_a_line_after_each_tenth(
    model: str, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(25):
        (folder / f"{number}.png").write_bytes(BRIGHT)
    predict_images(PredictRequest(model, [str(folder)], tmp_path / "out"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "predicted 3 of 25 files"
    assert lines[-1] == "predicted 25 of 25 files"


def test_small_images_are_drawn_enlarged(model: str, images: Path, tmp_path: Path) -> None:
    large = draw_image(700, 500, (10, 10, 30, 30))
    (images / "large.png").write_bytes(encode_image(large))
    (images / f"{'x' * 240}.png").write_bytes(BRIGHT)
    predict_images(PredictRequest(model, [str(images)], tmp_path / "out"))
    sizes = {}
    for path in (tmp_path / "out").glob("*.jpg"):
        drawn = cv2.imread(str(path))
        assert drawn is not None
        sizes[path.name[:6]] = drawn.shape[:2]
    assert sizes == {
        "0001_b": (640, 640),
        "0002_l": (500, 700),
        "0003_a": (640, 640),
        "0004_x": (640, 640),
    }
