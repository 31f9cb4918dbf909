"""The command line: what each command prints, and how each kind of error ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from detreg import __version__, cli, commands, errors
from detreg.data import looks
from detreg.data.sample import CLASSES, write_sample
from detreg.params import get_params
from detreg.signals import STOP_SIGNALS
from detreg.templates import TEMPLATES

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a folder and a cache, and restore the signal handlers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("DETREG_WEIGHTS", raising=False)
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a small good dataset."""
    write_sample(tmp_path / "drawn", images=6, size=(64, 64))
    return tmp_path / "drawn"


def run_failing(capsys: Capture, argv: Sequence[str], exit_code: int) -> list[str]:
    """Run a command that must fail and return its problems, one for each line."""
    assert cli.run(list(argv)) == exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines
    assert all(line.startswith("detreg: ") for line in lines)
    assert "Traceback" not in captured.err
    return [line.removeprefix("detreg: ") for line in lines]


def run_printing(capsys: Capture, *argv: str) -> str:
    """Run a command that must succeed and return its standard output."""
    assert cli.run(argv) == 0
    return capsys.readouterr().out


def test_templates_are_listed_one_line_each(capsys: Capture) -> None:
    lines = run_printing(capsys, "templates").splitlines()
    assert [line.split()[0] for line in lines] == list(TEMPLATES)
    assert all(
        template.summary in line for template, line in zip(TEMPLATES.values(), lines, strict=True)
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_shown_with_every_hyperparameter(capsys: Capture, name: str) -> None:
    shown = run_printing(capsys, "templates", TEMPLATES[name].aliases[0].lower())
    for param in get_params(TEMPLATES[name].params).values():
        assert param.name in shown
        assert param.domain in shown
        assert param.help in shown


def test_templates_as_json_keep_the_contract(capsys: Capture) -> None:
    listed = json.loads(run_printing(capsys, "templates", "--json"))
    assert [entry["name"] for entry in listed] == list(TEMPLATES)
    for entry in listed:
        assert json.loads(run_printing(capsys, "templates", entry["name"], "--json")) == entry
        assert set(entry) == {"name", "aliases", "summary", "hyperparameters"}
        for param in entry["hyperparameters"]:
            assert set(param) == {
                "name",
                "type",
                "default",
                "minimum",
                "maximum",
                "step",
                "choices",
                "help",
            }
    yolox = {param["name"]: param for param in listed[0]["hyperparameters"]}
    expected: dict[str, Any] = {
        "type": "int",
        "default": 8,
        "minimum": 1,
        "maximum": 32,
        "step": 1,
        "choices": None,
    }
    assert {key: yolox["batch_size"][key] for key in expected} == expected
    assert yolox["load_from"]["default"] is None
    assert yolox["base_model"]["choices"] == list(TEMPLATES["yolox"].base_models)


def test_check_measures_boxes_for_a_template(capsys: Capture, folder: Path) -> None:
    words = ["check", str(folder), "--template", "YOLOX"]
    shown = run_printing(capsys, *words, "--image_size", "64")
    assert "\nboxes of yolox at image_size=64: " in shown

    report = json.loads(run_printing(capsys, *words, "--image_size=64", "--json"))
    assert report["statistics"]["training"]["image_size"] == "64"
    assert all(set(advice) == {"message", "flags"} for advice in report["advice"])


def test_check_compares_few_images_and_more_where_it_is_asked_to(
    capsys: Capture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*flags: str) -> Any:
        shown = run_printing(capsys, "check", str(folder), "--json", *flags)
        return json.loads(shown)["statistics"]["pixels"]

    assert set(check()) == {"near_duplicates", "flaws"}
    for limit in ("FEW_PIXELS", "FEW_IMAGES"):
        with monkeypatch.context() as patch:
            patch.setattr(looks, limit, 1)
            assert check() is None
    monkeypatch.setattr(looks, "FEW_PIXELS", 1)
    assert set(check("--pixels")) == {"near_duplicates", "flaws"}


def test_check_writes_a_page_also_of_what_it_refuses(
    capsys: Capture, folder: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    shown = run_printing(capsys, "check", str(folder), "--page", str(page))
    assert shown.endswith(f"page: {page}\n")
    assert "Good" in page.read_text()

    next(folder.rglob("*.jpg")).unlink()
    assert cli.run(["check", str(folder), "--page", str(page), "--json"]) == 65
    report = json.loads(capsys.readouterr().out)
    assert report["statistics"]["pixels"] is not None
    assert "Refused" in page.read_text()


def test_check_refuses_a_page_where_none_can_be_written(capsys: Capture, folder: Path) -> None:
    (line,) = run_failing(capsys, ["check", str(folder), "--page", str(folder)], 2)
    assert str(folder) in line


def test_check_refuses_hyperparameters_that_are_wrong(capsys: Capture, folder: Path) -> None:
    template = ["--template", "yolox"]
    (line,) = run_failing(capsys, ["check", str(folder), *template, "--image_size", "65"], 2)
    assert "image_size must be" in line
    (line,) = run_failing(capsys, ["check", str(folder), *template, "--image_sise", "64"], 2)
    assert "image_size" in line
    (line,) = run_failing(capsys, ["check", str(folder), "--template", "yolo9"], 2)
    assert "yolo9" in line
    (line,) = run_failing(capsys, ["check", str(folder), "--image_size", "64"], 2)
    assert "--template" in line


def test_version(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"detreg {__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        "templates",
        "check",
        "sample",
        "train",
        "evaluate",
        "compare",
        "predict",
        "export",
        "promote",
        "weights",
    ],
)
def test_every_command_has_help(capsys: Capture, command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: detreg {command}" in capsys.readouterr().out


def test_help_of_a_template_has_every_flag_and_its_default(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        cli.run(["train", "MMDetection_YOLOX", "--help"])
    shown = capsys.readouterr().out
    for param in get_params(TEMPLATES["yolox"].params).values():
        assert f"--{param.name} V" in shown
        assert f"default {param.format(param.default)})" in " ".join(shown.split())


def test_an_unknown_flag_gets_the_near_one(capsys: Capture) -> None:
    (problem,) = run_failing(capsys, ["train", "yolox", "--imagesize", "640"], 2)
    assert problem == "unknown parameter imagesize (did you mean image_size?)"


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["sample", "there", "--formt", "voc"], "format"),
        (["sample", "there", "--formt=voc"], "format"),
        (["templates", "--jsn"], "json"),
        (["evaluate", "m.onnx", "--data", "d", "--splt", "val"], "split"),
    ],
)
def test_an_unknown_flag_of_any_command_gets_the_near_one(
    capsys: Capture, argv: list[str], near: str
) -> None:
    (problem,) = run_failing(capsys, argv, 2)
    assert problem.startswith("unknown argument --")
    assert "did you mean" in problem
    assert f"{near}?)" in problem


@pytest.mark.parametrize("flag", ["--unknwn", "--comand", "--nam", "--values_off"])
def test_only_flags_that_there_are_get_suggested(capsys: Capture, flag: str) -> None:
    (problem,) = run_failing(capsys, ["templates", flag], 2)
    assert problem == f"unknown argument {flag}"


def test_flags_are_not_abbreviated(capsys: Capture) -> None:
    (problem,) = run_failing(capsys, ["train", "yolox", "--image", "640"], 2)
    assert problem.startswith("unknown parameter image")


def test_every_problem_of_a_training_is_told_at_once(capsys: Capture) -> None:
    argv = [
        "train",
        "yolox",
        "--batch_size",
        "99",
        "--colour=blue",
        "--seed",
        "x",
        "--image_size",
        "650",
        "--data",
        "nowhere",
    ]
    problems = run_failing(capsys, argv, 2)
    assert len(problems) == 5
    for words in (
        "batch_size must be",
        "unknown parameter colour",
        "seed must be",
        "image_size must be",
    ):
        assert any(problem.startswith(words) for problem in problems)


def test_no_command_shows_the_help(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run([])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "learning-curve" in output
    assert "--debug" in output


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], "trian"),
        (["train"], "TEMPLATE"),
        (["train", "yolocks"], "unknown template yolocks (did you mean yolox?)"),
        (["templates", "yolocks"], "unknown template yolocks (did you mean yolox?)"),
        (["check"], "data"),
        (["check", "sample", "again"], "unexpected argument again"),
        (["train", "yolox", "data=/my boats"], "data=/my boats: write --data '/my boats'"),
        (["train", "yolox", "--lr", "0.1"], "lr (did you mean per_item_lrate?)"),
        (["train", "ssd", "--imgsz", "320"], "imgsz (did you mean image_size?)"),
        (["train", "ssd", "--registerd_model_name", "x"], "did you mean registered_model_name?"),
        (["train", "yolof", "--device", "0"], "CUDA_VISIBLE_DEVICES chooses another"),
        (["sweep", "yolox", "--epochs", "3"], "epochs (did you mean num_epochs?)"),
        (["sample", "there", "--format", "pascal"], "pascal"),
        (["sample", "there", "--images", "many"], "many"),
        (["sample", "there", "--images", "2"], "images must be 3 or more"),
        (["train", "yolox", "--image_size"], "--image_size"),
        (["train", "yolox", "extra"], "extra"),
        (["evaluate", "model.onnx"], "--data"),
        (["promote", "boats"], "--rollback"),
        (["promote", "boats", "3", "--rollback"], "--rollback"),
        (["weights", "fetch"], "which template"),
        (["weights", "fetch", "yolox", "--base_model", "yolox_xxl"], "base_model must be one of"),
        (["weights", "fetch", "yolox", "--base_model", "yolox_m"], "DETREG_WEIGHTS"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_line(
    capsys: Capture, argv: list[str], words: str
) -> None:
    (problem,) = run_failing(capsys, argv, 2)
    assert words in problem


@pytest.mark.parametrize(
    "argv",
    [
        ["check", "nowhere"],
        ["train", "yolox", "--data", "nowhere"],
        ["evaluate", "nowhere.onnx", "--data", "nowhere"],
        ["predict", "model.onnx", "nowhere"],
    ],
)
def test_what_is_missing_ends_with_66(capsys: Capture, argv: list[str]) -> None:
    (problem,) = run_failing(capsys, argv, 66)
    assert "nowhere" in problem


def test_a_good_dataset_is_reported(capsys: Capture, folder: Path) -> None:
    shown = run_printing(capsys, "check", str(folder))
    assert f"{folder} is good" in shown
    assert ", ".join(CLASSES) in shown
    report = json.loads(run_printing(capsys, "check", str(folder), "--json"))
    assert report["ok"] is True
    assert report["digest"] in shown
    assert report["classes"] == list(CLASSES)
    assert {name: split["images"] for name, split in report["splits"].items()} == {
        "train": 4,
        "val": 1,
        "test": 1,
    }


def break_annotations(folder: Path) -> Path:
    """Break the training annotations twice: an unknown class, and an image that does not exist."""
    file = next(folder.rglob("*train*.json"))
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 77
    content["images"][-1]["file_name"] = "gone.jpg"
    file.write_text(json.dumps(content))
    return folder


def test_a_bad_dataset_ends_with_65_and_every_problem(capsys: Capture, folder: Path) -> None:
    break_annotations(folder)
    assert cli.run(["check", str(folder)]) == 65
    shown = capsys.readouterr()
    problems = [line for line in shown.out.splitlines() if line.startswith("problem: ")]
    assert any("77" in line for line in problems)
    assert any("gone.jpg" in line for line in problems)
    assert shown.out.splitlines()[-1] == f"{folder} has {len(problems)} problems"
    assert cli.run(["check", str(folder), "--json"]) == 65
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["digest"] is None
    assert [f"problem: {problem}" for problem in report["problems"]] == problems
    assert run_failing(capsys, ["train", "yolox", "--data", str(folder)], 65) == report["problems"]


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_sample_writes_a_dataset(capsys: Capture, tmp_path: Path, format: str) -> None:
    drawn = tmp_path / "boats"
    assert "detreg check" in run_printing(
        capsys, "sample", str(drawn), "--format", format, "--images", "9", "--seed", "5"
    )
    report = json.loads(run_printing(capsys, "check", str(drawn), "--json"))
    assert report["format"] == format
    assert {name: split["images"] for name, split in report["splits"].items()} == {
        "train": 7,
        "val": 1,
        "test": 1,
    }
    (problem,) = run_failing(capsys, ["sample", str(drawn), "--images", "3"], 2)
    assert "not an empty folder" in problem


def test_published_weights_are_listed(capsys: Capture) -> None:
    lines = run_printing(capsys, "weights", "list", "yolox").splitlines()
    assert [line.split()[1] for line in lines] == list(TEMPLATES["yolox"].base_models)
    assert any("https://" in line for line in lines)


def test_weights_of_a_folder_of_ones_own_are_found(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "yolox_nano_coco.pth"
    file.write_bytes(b"weights")
    monkeypatch.setenv("DETREG_WEIGHTS", str(tmp_path))
    assert (
        run_printing(capsys, "weights", "fetch", "yolox", "--base_model", "yolox_nano")
        == f"{file}\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["train", "yolox", "--data", "https://me:canary@host/data.zip"],
        ["train", "yolox", "--load_from", "https://host/x.pth?X-Amz-Signature=canary"],
        ["train", "yolox", "--undeclared=https://canary@host"],
        ["sweep", "yolox", "--storage=postgresql://me:canary@host/db"],
        ["sweep", "yolox", "--yolox.load_from", "https://canary@host/x.pth"],
        ["check", "https://me:canary@host/data.zip"],
        ["predict", "models:/yolox@champion", "a.jpg", "https://me:canary@host/b.jpg"],
    ],
)
def test_password_in_an_argument_is_refused_and_not_repeated(
    capsys: Capture, words: list[str]
) -> None:
    (problem,) = run_failing(capsys, words, 2)
    assert "must be free of passwords and tokens, got '" in problem
    assert "***" in problem
    assert "canary" not in problem


def test_password_that_mlflow_has_logged_is_removed_with_its_run(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    words = ["train", "yolox", "--load_from", "https://me:canary@host/x.pth"]
    problem, removal = run_failing(capsys, words, 2)
    assert problem.startswith("load_from must be free of passwords")
    assert f"mlflow runs delete --run-id {run_id}, then mlflow gc --run-ids {run_id}" in removal
    reason = mlflow.get_run(run_id).data.tags["detreg.failure"]
    assert "https://me:***@host/x.pth" in reason
    assert "canary" not in reason


class RaisingCommand:
    """Replace `detreg weights` by a command that raises a given error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.error = error
        monkeypatch.setattr(commands, "weights", self)

    def __call__(self, arguments: object) -> int:  # noqa: ARG002
        raise self.error


KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.DetregError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_ends_with_the_code_of_its_kind(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, kind: type[errors.DetregError]
) -> None:
    RaisingCommand(monkeypatch, kind(["first", "second"]))
    assert run_failing(capsys, ["weights", "list"], kind.exit_code) == ["first", "second"]


def test_the_exit_codes() -> None:
    assert {kind.__name__: kind.exit_code for kind in KINDS if kind is not errors.DetregError} == {
        "UsageError": 2,
        "DataError": 65,
        "NotFoundError": 66,
        "UnreachableError": 69,
        "MemoryExhaustedError": 71,
        "DiskError": 74,
        "StoppedError": 75,
        "UndeliveredError": 75,
        "RefusedError": 77,
    }


def test_a_bug_ends_with_70_and_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    RaisingCommand(monkeypatch, ZeroDivisionError("division by zero"))
    (problem,) = run_failing(capsys, ["weights", "list"], 70)
    for words in ("bug", "ZeroDivisionError", "division by zero", "--debug"):
        assert words in problem


def test_debug_lets_the_traceback_through(monkeypatch: pytest.MonkeyPatch) -> None:
    RaisingCommand(monkeypatch, ZeroDivisionError("division by zero"))
    with pytest.raises(ZeroDivisionError):
        cli.run(["weights", "list", "--debug"])


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (OSError(28, "No space left on device", "/data/x.pth"), 74, "/data/x.pth"),
        (OSError(30, "Read-only file system", "/data/x.pth"), 74, "/data/x.pth"),
        (MemoryError(), 71, "batch_size"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_machine_raises_has_a_code_too(
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    exit_code: int,
    words: str,
) -> None:
    RaisingCommand(monkeypatch, error)
    (problem,) = run_failing(capsys, ["weights", "list"], exit_code)
    assert words in problem


def test_sigterm_ends_with_143(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(arguments: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
        return 0

    monkeypatch.setattr(commands, "weights", command)
    (problem,) = run_failing(capsys, ["weights", "list"], 143)
    assert "terminated" in problem


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["templates"],
        ["train", "yolox", "--help"],
        ["completion", "bash"],
        ["train", "yolox", "--batch_size", "99"],
        ["sweep", "yolox", "--batch_size", "99"],
    ],
)
def test_help_and_refusals_import_nothing_heavy(argv: list[str]) -> None:
    script = (
        "import sys; from detreg.cli import run\n"
        f"try: run({argv!r})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    report = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=600
    )
    loaded = {name.split(".")[0] for name in report.stdout.splitlines()[-1].split()}
    assert "detreg" in loaded
    assert not loaded & {
        "torch",
        "torchvision",
        "mmdet",
        "mmengine",
        "mmcv",
        "mlflow",
        "cv2",
        "onnx",
        "onnxruntime",
        "optuna",
        "pandas",
    }
    if argv[-1] != "99":
        assert "numpy" not in loaded


def test_a_sweep_is_refused_before_anything_is_made(capsys: Capture, tmp_path: Path) -> None:
    words = [
        "--space",
        "image_size=300:640 frozen_stages=0:9",
        "--trials",
        "0",
        "--per_item_lrat",
        "1",
    ]
    report = "\n".join(run_failing(capsys, ["sweep", "yolox", *words], 2))
    assert (
        "trials must be an integer from 1 to 10000, got 0" in report
        and "did you mean per_item_lrate?" in report
    )
    assert "the template comes first" in run_failing(capsys, ["sweep", "--trials", "3"], 2)[0]
    assert "did you mean yolox?" in run_failing(capsys, ["sweep", "yolox,yolocks"], 2)[0]
    assert cli.run(["sweep", "yolox", "--data", "sample", "--storage", "nonsense"]) == 2
    assert "storage must be sqlite:" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.db"))


def test_json_is_all_of_the_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a command and its libraries print meanwhile goes to standard error."""
    from detreg.tasks import evaluate

    def print_and_evaluate(model: str, data: str, split: str) -> dict[str, object]:
        print("a library prints")
        return {"run_id": "0" * 32, "mAP": 0.5}

    monkeypatch.setattr(evaluate, "evaluate_model", print_and_evaluate)
    monkeypatch.setattr("detreg.commands._print_report_of", lambda *_: print("its report"))
    words = ["evaluate", "model.onnx", "--data", "sample"]

    assert cli.run([*words, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"run_id": "0" * 32, "mAP": 0.5}
    assert printed.out.count("\n") == 1
    assert "a library prints" in printed.err
    assert "its report" in printed.err

    assert cli.run(words) == 0
    assert "a library prints" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "sweep", "learning-curve"])
def test_values_and_data_are_refused_together(
    capsys: Capture, tmp_path: Path, tiny: Path, command: str
) -> None:
    """With the exit code of the values, and each problem once."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    for image in list(broken.rglob("*.jpg"))[:2]:
        image.write_bytes(b"no image")
    words = [command, "yolox", "--batch_size", "99", "--epochs", "3", "--data"]

    problems = run_failing(capsys, [*words, str(broken)], 2)
    assert sum("batch_size" in problem for problem in problems) == 1
    assert sum("num_epochs" in problem for problem in problems) == 1
    assert sum(".jpg" in problem for problem in problems) == 2

    problems = run_failing(capsys, [*words, "nowhere"], 2)
    assert problems[-1].startswith("nowhere: there is no such folder or archive")
    assert len(run_failing(capsys, [*words, str(tiny)], 2)) == 2
    # What is refused of the value itself is not told twice.
    problems = run_failing(capsys, [*words, "https://me:canary@host/data.zip"], 2)
    assert not any("no such folder" in problem for problem in problems)
