"""`pip install detreg` is enough for Detector, predict and check; the rest says what it lacks.

A process in which only the packages of that install can be imported stands in for a new
environment.
"""

import importlib.util
import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from toy_detector import write_toy_model

from detreg.data.sample import write_sample
from detreg.generate import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

SCRIPT = """
import sys
from importlib.machinery import PathFinder

refused = set(sys.argv[1].split())

class FindWhatIsInstalled(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.split(".")[0] in refused:
            return None
        return super().find_spec(fullname, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = FindWhatIsInstalled
from detreg.cli import run
for command in sys.argv[2:]:
    print("exit code", run(command.split()), command, flush=True)
import detreg.mlflow_models
print("models of a registry can be read")
"""


def list_distributions(requirements: list[str]) -> set[str]:
    """Return the names of the distributions that are installed for some requirements."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        is_wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_wanted and name not in found:
            found.add(name)
            waiting += [Requirement(text) for text in requires(name) or []]
    return found


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what commands print where only the light install can be imported."""
    folder = tmp_path_factory.mktemp("light")
    model = write_toy_model(folder / "toy.onnx")
    write_sample(folder / "data", images=6)
    installed = list_distributions(PROJECT["dependencies"]) | {"detreg"}
    refused = [
        module
        for module, distributions in packages_distributions().items()
        if not installed & {canonicalize_name(name) for name in distributions}
    ]
    assert "torch" in refused and "sqlalchemy" in refused and "numpy" not in refused

    commands = [
        f"predict {model} {next((folder / 'data').rglob('*.jpg'))} --out {folder / 'out'}",
        f"check {folder / 'data'}",
        f"predict models:/boats@champion {folder / 'data'}",
        "train yolox",
        f"evaluate {model} --data {folder / 'data'}",
    ]
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, " ".join(refused), *commands],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


@pytest.mark.parametrize("command", ["predict /", "check"])
def test_the_light_install_predicts_and_checks(output: str, command: str) -> None:
    assert f"exit code 0 {command}" in output


def test_the_light_install_reads_models_of_a_registry(output: str) -> None:
    assert "models of a registry can be read" in output


@pytest.mark.parametrize("command", ["predict models:/", "train", "evaluate"])
def test_what_needs_more_says_how_to_install_it(output: str, command: str) -> None:
    assert f"exit code 2 {command}" in output
    assert output.count("pip install 'detreg[train]'") == 3


def test_python_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import detreg
    from detreg.errors import UsageError

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"detreg\.train needs the full install"):
        _ = detreg.train
