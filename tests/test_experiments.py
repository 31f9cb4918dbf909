"""In which experiment of MLflow a run is, and what it is called."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.tracking import fluent

from detreg.data.dataset import Dataset, load_dataset
from detreg.errors import NotFoundError
from detreg.tracking import runs
from detreg.tracking.experiments import use_dataset_experiment
from detreg.tracking.markdown import escape, quote_code
from detreg.tracking.run_names import choose_run_name

NUMBERS = itertools.count()
MLFLOW_STATE = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")


@pytest.fixture
def client(store: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Return a client of a store where no experiment is chosen."""
    for name in MLFLOW_STATE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    return MlflowClient()


@pytest.fixture
def dataset(tiny: Path) -> Dataset:
    """Return a dataset with a name of its own, such as `boats (7)`."""
    return replace(load_dataset(tiny), name=f"boats ({next(NUMBERS)})")


def name_experiment(dataset: Dataset) -> str:
    return dataset.name.replace(" (", "-").removesuffix(")")


def find_experiment(dataset: Dataset) -> str:
    """Return the name of the experiment in which the next run starts."""
    with use_dataset_experiment(dataset):
        run_id = os.environ.get("MLFLOW_RUN_ID")
        experiment = fluent._get_experiment_id() or "0"
        if run_id is not None:
            experiment = runs.get_run(run_id).info.experiment_id
    return str(MlflowClient().get_experiment(experiment).name)


def test_the_experiment_is_that_of_the_dataset(client: MlflowClient, dataset: Dataset) -> None:
    assert find_experiment(dataset) == name_experiment(dataset)
    assert "MLFLOW_EXPERIMENT_ID" not in os.environ
    found = client.get_experiment_by_name(name_experiment(dataset))
    assert found is not None
    assert found.tags["mlflow.note.content"].endswith(quote_code(dataset.origin))

    assert find_experiment(dataset) == name_experiment(dataset)
    assert find_experiment(replace(dataset, name="...")) == "Default"


@pytest.mark.parametrize("way", ["id", "name", "program", "mlflow run"])
def test_an_experiment_that_was_chosen_is_used(
    client: MlflowClient, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    name = f"chosen by {way}"
    chosen = client.create_experiment(name)
    if way == "id":
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", chosen)
    elif way == "name":
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    elif way == "program":
        monkeypatch.setattr(fluent, "_active_experiment_id", chosen)
    elif way == "mlflow run":
        monkeypatch.setenv("MLFLOW_RUN_ID", client.create_run(chosen).info.run_id)

    assert find_experiment(dataset) == name
    assert client.get_experiment_by_name(name_experiment(dataset)) is None


def test_a_nested_run_does_not_get_an_experiment_of_its_own(
    client: MlflowClient, dataset: Dataset
) -> None:
    with mlflow.start_run():
        assert find_experiment(dataset) == "Default"


def test_an_experiment_that_another_process_creates_is_used(
    client: MlflowClient, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = MlflowClient.get_experiment_by_name

    def find_and_create(self: MlflowClient, name: str) -> object:
        found = find(self, name)
        if found is None:
            self.create_experiment(name)
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", find_and_create)
    assert find_experiment(dataset) == name_experiment(dataset)


def test_a_deleted_experiment_is_refused(client: MlflowClient, dataset: Dataset) -> None:
    experiment = client.create_experiment(name_experiment(dataset))
    client.delete_experiment(experiment)
    with pytest.raises(NotFoundError, match=f"mlflow experiments restore -x {experiment}"):
        find_experiment(dataset)


def test_a_run_has_a_name_that_says_what_it_is(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_run_name(None, "yolox boats 416px") == "yolox boats 416px"
    assert choose_run_name("mine", "yolox boats 416px") == "mine"
    assert choose_run_name(None, "yolox \x1b[2J 416px") == "yolox \\x1b[2J 416px"

    # `mlflow run` has created the run before: with a name of MLflow's, or with that of its user.
    for name, chosen in (
        (None, "default"),
        ("bold-fish-7", "default"),
        ("yolox-boats-7", None),
        ("mine", None),
    ):
        run = client.create_run("0", run_name=name)
        monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
        assert choose_run_name(None, "default") == chosen
        assert choose_run_name("given", "default") == "given"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("/data/boats", "`/data/boats`"),
        ("a`b", "`` a`b ``"),
        ("``", "``` `` ```"),
        ("a\nb\x1b[2J", "`a b\\x1b[2J`"),
    ],
)
def test_a_name_is_quoted_as_code(text: str, code: str) -> None:
    assert quote_code(text) == code


def test_a_name_has_no_meaning_in_markdown() -> None:
    assert escape("red boat 2") == "red boat 2"
    assert escape("[a](http://b)<img>|`c`") == ("\\[a\\]\\(http\\://b\\)\\<img\\>\\|\\`c\\`")
    assert escape("a\n\n# b") == "a  \\# b"
