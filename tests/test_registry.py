"""Which version is champion, in a real registry."""

import itertools
import math
from collections.abc import Iterator

import mlflow
import pytest
from mlflow import MlflowClient
from test_detector import toy_model

from detreg.errors import NotFoundError, UnreachableError, UsageError
from detreg.serving.packaging import log_model
from detreg.tracking import registry
from detreg.tracking.registry import promote, register, rollback

_names = (f"model_{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A logged model's URI and its run, in a store of their own."""
    folder = tmp_path_factory.mktemp("registry")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("toys", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("toys")
    with mlflow.start_run() as run:
        info = log_model(toy_model(folder / "toy.onnx"))
    yield info.model_uri, run.info.run_id
    mlflow.set_tracking_uri(before)


class Shelf:
    """One registered model, with a name of its own."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id, self.name = uri, run_id, next(_names)

    def add(self, score: float, digest: str = "data") -> registry.RegisteredVersion:
        return register(
            self.name,
            self.uri,
            self.run_id,
            score=score,
            dataset_digest=digest,
            tags={"template": "yolox"},
        )

    @property
    def aliases(self) -> dict[str, str]:
        return {
            alias: str(version)
            for alias, version in MlflowClient().get_registered_model(self.name).aliases.items()
        }


@pytest.fixture
def shelf(logged: tuple[str, str]) -> Shelf:
    return Shelf(*logged)


def test_the_champion_is_the_best_on_the_same_data(shelf: Shelf) -> None:
    first, worse, better, equal = (shelf.add(score) for score in (0.3, 0.2, 0.4, 0.4))
    assert [(entry.version, entry.alias) for entry in (first, worse, better, equal)] == [
        ("1", "champion"),
        ("2", "challenger"),
        ("3", "champion"),
        ("4", "challenger"),
    ]
    assert first.reason == "there was no champion"
    assert (
        worse.reason
        == f"mAP 0.2000 does not beat 0.3000 of version 1, the champion; to promote it by hand: detreg promote {shelf.name} 2"
    )
    assert better.reason == "mAP 0.4000 beats 0.3000 of version 1 on the same data"
    assert shelf.aliases == {"champion": "3", "challenger": "4"}


def test_other_data_cannot_be_compared(shelf: Shelf) -> None:
    shelf.add(0.3)
    other = shelf.add(0.9, digest="other")
    assert (
        other.alias,
        "scored on other data" in other.reason,
        f"detreg promote {shelf.name} 2" in other.reason,
    ) == (
        "challenger",
        True,
        True,
    )


def test_a_version_carries_score_data_run_and_template(shelf: Shelf) -> None:
    entry = shelf.add(0.1 + 0.2)
    version = MlflowClient().get_model_version(shelf.name, entry.version)
    assert version.tags == {
        "mAP": "0.30000000000000004",
        "dataset_digest": "data",
        "eid": shelf.run_id,
        "template": "yolox",
        "reason": "there was no champion",
    }
    assert version.run_id == shelf.run_id


@pytest.mark.parametrize(
    ("score", "figure"),
    [(0.0, "0.0000"), (0.00004, "0.0000"), (math.nan, "undefined")],
)
def test_what_finds_nothing_is_a_challenger_until_promoted_by_hand(
    shelf: Shelf,
    score: float,
    figure: str,
) -> None:
    entry = shelf.add(score)
    assert (entry.alias, shelf.aliases) == ("challenger", {"challenger": "1"})
    assert entry.reason == (
        f"mAP is {figure}, and a model that finds nothing becomes champion by hand only; "
        f"to promote it by hand: detreg promote {shelf.name} 1"
    )
    assert MlflowClient().get_model_version(shelf.name, "1").tags["reason"] == entry.reason

    assert promote(shelf.name, "1").reason == "promoted by hand"
    assert shelf.aliases == {"champion": "1"}


def test_the_first_that_finds_something_is_champion_after_those_that_found_nothing(
    shelf: Shelf,
) -> None:
    shelf.add(0.0)
    found = shelf.add(0.0001)
    assert (found.alias, found.reason) == ("champion", "there was no champion")
    assert shelf.aliases == {"challenger": "1", "champion": "2"}


@pytest.mark.parametrize("score", [0.0, 0.00004, math.nan])
def test_a_champion_that_finds_nothing_is_beaten_by_what_finds_something(
    shelf: Shelf,
    score: float,
) -> None:
    shelf.add(score)
    promote(shelf.name, "1")
    assert [shelf.add(other).alias for other in (0.00004, 0.0001)] == ["challenger", "champion"]
    assert shelf.aliases == {"challenger": "2", "champion": "3"}


def test_what_finds_nothing_keeps_no_champion_from_its_place(shelf: Shelf) -> None:
    shelf.add(0.3)
    assert shelf.add(0.0).alias == "challenger"
    assert shelf.aliases == {"champion": "1", "challenger": "2"}


def test_rolling_back_goes_back_one_champion_a_call(shelf: Shelf) -> None:
    for score in (0.1, 0.2, 0.3):
        shelf.add(score)
    assert (rollback(shelf.name).version, rollback(shelf.name).version) == ("2", "1")
    with pytest.raises(UsageError, match="no earlier champion"):
        rollback(shelf.name)
    assert shelf.aliases == {"champion": "1"}


def test_promoting_by_hand_can_be_rolled_back(shelf: Shelf) -> None:
    shelf.add(0.3)
    shelf.add(0.2)
    assert promote(shelf.name, "2").reason == "promoted by hand, in place of version 1"
    assert shelf.aliases == {"champion": "2"}  # no longer a challenger
    assert promote(shelf.name, "2").reason == "it is the champion already"
    assert rollback(shelf.name).reason == "rolled back from version 2"
    assert shelf.aliases == {"champion": "1"}


def test_a_deleted_version_is_passed_over(shelf: Shelf) -> None:
    for score in (0.1, 0.2, 0.3):
        shelf.add(score)
    MlflowClient().delete_model_version(shelf.name, "2")
    assert rollback(shelf.name).version == "1"


@pytest.mark.parametrize("write", ["set_registered_model_alias", "set_registered_model_tag"])
@pytest.mark.parametrize("action", [lambda name: promote(name, "1"), rollback])
def test_a_crash_between_two_writes_leaves_the_truth(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, write: str, action: object
) -> None:
    for score in (0.1, 0.2, 0.3):
        shelf.add(score)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, write, crash)
        with pytest.raises(KeyboardInterrupt):
            action(shelf.name)  # type: ignore[operator]
    champion = shelf.aliases["champion"]
    assert rollback(shelf.name).version == {"3": "2", "2": "1"}[champion]


def test_what_the_registry_does_not_have(shelf: Shelf) -> None:
    shelf.add(0.1)
    for unknown in (
        lambda: promote(shelf.name, "9"),
        lambda: promote("nothing", "1"),
        lambda: rollback("nothing"),
    ):
        with pytest.raises(NotFoundError):
            unknown()
    with pytest.raises(NotFoundError, match="cannot be registered"):
        register(
            shelf.name,
            f"runs:/{'f' * 32}/model",
            "f" * 32,
            score=0.1,
            dataset_digest="data",
            tags={},
        )
    with pytest.raises(UsageError, match="is no name for a model"):
        register("a/b", shelf.uri, shelf.run_id, score=0.1, dataset_digest="data", tags={})


def test_a_registry_that_does_not_answer(
    logged: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(UnreachableError):
            rollback("anything")
    finally:
        mlflow.set_tracking_uri(store)
