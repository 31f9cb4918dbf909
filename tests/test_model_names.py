"""How registered models are called, and what is said of a model that has versions already."""

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from detreg.data.dataset import Dataset, load_dataset
from detreg.model_names import find_name_problem, make_model_name
from detreg.options import RunOptions
from detreg.tracking import runs
from detreg.tracking.model_hints import list_hints
from detreg.tracking.registered_model import CHAMPION, DIGEST, EID


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("boats", "yolox-boats"),
        ("Boats_2.v3", "yolox-Boats_2.v3"),
        ("my boats (new)", "yolox-my-boats-new"),
        ("$(rm -r ~) `x`; 'a' \"b\" @champion:1", "yolox-rm-r-x-a-b-champion-1"),
        ("e\u0301tang", "yolox-\u00e9tang"),  # as macOS stores it
        ("船", "yolox-船"),
        ("...", "yolox"),
        ("", "yolox"),
        ("x" * 1000, f"yolox-{'x' * 100}"),
    ],
)
def test_a_model_is_named_after_template_and_dataset(dataset: str, name: str) -> None:
    assert make_model_name("yolox", dataset) == name
    assert find_name_problem(name) is None


def test_a_name_that_is_given_is_taken_as_it_is() -> None:
    options = RunOptions(registered_model_name="my boats")
    assert options.choose_model_name("yolox", "boats") == "my boats"


@pytest.fixture
def registry(store: str) -> MlflowClient:
    return MlflowClient()


def add_champion(client: MlflowClient, name: str, digest: str, eid: str) -> None:
    client.create_registered_model(name)
    tags = {DIGEST: digest, EID: eid}
    version = client.create_model_version(name, "file:///nowhere", tags=tags)
    client.set_registered_model_alias(name, CHAMPION, version.version)


def log_run_on(dataset: Dataset) -> str:
    with runs.start_run(None, {}) as run:
        run.log_dataset(dataset)
    return run.id


def test_the_champion_of_other_data_is_named(tiny: Path, registry: MlflowClient) -> None:
    dataset = load_dataset(tiny)
    options = RunOptions()
    assert list_hints(options, "yolox", dataset) == []

    grown = replace(dataset, digest="0123456789abcdef")
    add_champion(registry, "yolox-tiny", grown.digest, log_run_on(grown))
    (hint,) = list_hints(options, "yolox", dataset)
    assert "yolox-tiny has a champion, version 1, that was trained on other data" in hint
    assert "digest 0123456789abcdef" in hint
    # Of that data itself there is nothing to say, nor of another name.
    assert list_hints(options, "yolox", grown) == []
    assert list_hints(RunOptions(registered_model_name="new"), "yolox", dataset) == []

    planes = replace(dataset, digest="planes", classes=("plane\x1b[2J", "b", "c", "d", "e", "f"))
    add_champion(registry, "planes", planes.digest, log_run_on(planes))
    (hint,) = list_hints(RunOptions(registered_model_name="planes"), "yolox", dataset)
    assert "with other classes (plane\\x1b[2J, b, c, d, e, ...)" in hint
    assert "stays challenger" in hint

    # The run is gone, so that nothing tells of classes.
    add_champion(registry, "gone", "gone", "0" * 32)
    (hint,) = list_hints(RunOptions(registered_model_name="gone"), "yolox", dataset)
    assert "trained on other data (digest gone)" in hint


def test_the_name_of_earlier_releases_is_pointed_out(tiny: Path, registry: MlflowClient) -> None:
    registry.create_registered_model("yolof")
    dataset = load_dataset(tiny)
    (hint,) = list_hints(RunOptions(), "yolof", dataset)
    assert "will be registered as yolof-tiny" in hint
    assert "set registered_model_name=yolof" in hint
    assert list_hints(RunOptions(), "ssd", dataset) == []
    assert list_hints(RunOptions(registered_model_name="new"), "yolof", dataset) == []
