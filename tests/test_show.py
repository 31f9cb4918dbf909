"""`detreg show`: a link, the scoring server behind it, and an end that leaves nothing."""

import json
import socket
import urllib.request
from pathlib import Path

import psutil
import pytest
from shown_model import show
from toy_detector import draw_image, encode_image, write_toy_model

from detreg import cli


def test_it_serves_the_page_and_the_protocol_until_ctrl_c(tmp_path: Path) -> None:
    with show(write_toy_model(tmp_path / "toy.onnx")) as shown:
        with urllib.request.urlopen(shown.url) as page:
            assert "Drop an image here" in page.read().decode()

        jpeg = encode_image(draw_image(128, 96, (32, 16, 64, 48)), ".jpg")
        request = urllib.request.Request(
            f"{shown.url}invocations", jpeg, {"Content-Type": "image/jpeg"}
        )
        with urllib.request.urlopen(request) as answer:
            (row,) = json.load(answer)["predictions"]
        assert row["class_names"] == ["boat", "buoy"]

        assert psutil.Process(shown.process.pid).children() == []
        assert shown.interrupt() == (130, "detreg: interrupted\n")
    # Libraries may leave files of their own; the model is gone.
    assert [path for path in (tmp_path / "temporary").iterdir() if path.is_dir()] == []
    assert not (tmp_path / "mlruns").exists()
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("port", [None, 70_000, -1])
def test_a_port_that_cannot_be_taken_is_an_error(
    capsys: pytest.CaptureFixture[str], port: int | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        wanted = port or other.getsockname()[1]
        assert cli.run(["show", "none.onnx", f"--port={wanted}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"detreg: --port {wanted} cannot be taken (")


def test_a_model_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["show", "none.onnx", "--port", "0"]) == 66
    assert capsys.readouterr().err == "detreg: none.onnx: there is no such file\n"
