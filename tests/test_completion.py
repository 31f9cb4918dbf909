"""What a shell completes."""

import shutil
import subprocess

import pytest

from detreg.arguments import parse_arguments
from detreg.params import get_params
from detreg.templates import TEMPLATES

Capture = pytest.CaptureFixture[str]
BASH = shutil.which("bash")

COMPLETE = """
complete_words() {
  COMP_WORDS=("$@")
  COMP_CWORD=$(($# - 1))
  _detreg
  echo "${COMPREPLY[@]}"
}
"""

CASES = {
    ("tr",): ["train"],
    ("--v",): ["--version"],
    ("train", ""): list(TEMPLATES),
    ("train", "ss"): ["ssd"],
    ("train", "ssd", "--base_model", ""): list(TEMPLATES["ssd"].base_models),
    ("train", "yolox", "--precision", "b"): ["bf16"],
    ("train", "yolox", "--image"): ["--image_size"],
    ("sweep", "yolox", "--prun"): ["--pruner"],
    ("check", "boats", "--template", "yolof"): ["yolof"],
    ("sample", "boats", "--format", ""): ["coco", "voc", "yolo"],
    ("evaluate", "model", "--split", "te"): ["test"],
    ("weights", ""): ["list", "fetch"],
    # The shell completes the names of files.
    ("train", "yolox", "--data", ""): [],
    ("predict", "model", ""): [],
}


def print_script(capsys: Capture, shell: str) -> str:
    arguments = parse_arguments(["completion", shell])
    assert arguments.command(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_completes_commands_templates_flags_and_values(capsys: Capture) -> None:
    lines = [print_script(capsys, "bash"), COMPLETE]
    lines += [f"complete_words detreg {subprocess.list2cmdline(words)}" for words in CASES]
    done = subprocess.run(
        [str(BASH), "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    completed = [line.split() for line in done.stdout.splitlines()]
    assert dict(zip(CASES, completed, strict=True)) == CASES


def test_the_script_has_every_hyperparameter(capsys: Capture) -> None:
    script = print_script(capsys, "zsh")
    assert script.startswith("autoload -U +X bashcompinit && bashcompinit\n")
    for template in TEMPLATES.values():
        (line,) = [line for line in script.splitlines() if f"train\\ {template.name})" in line]
        assert {f"--{name}" for name in get_params(template.params)} <= set(line.split())
