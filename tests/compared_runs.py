"""Compares what trainings have left: checkpoints to the last bit, and the metrics of their runs."""

from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient

from detreg.tracking import runs
from detreg.training.checkpoints import Checkpoint, load_checkpoint


def load_checkpoints(eid: str, folder: Path) -> tuple[Checkpoint, Checkpoint]:
    """Return a run's last and best checkpoint."""
    stored = runs.find_checkpoints(eid)
    assert stored is not None
    last, best = (
        load_checkpoint(runs.download_artifact(eid, name, folder / eid))
        for name in (stored.last, stored.best)
    )
    return last, best


def get_metrics(*eids: str) -> dict[tuple[str, int], float]:
    """Return the values of several runs by name and step, where no two contradict each other."""
    values: dict[tuple[str, int], float] = {}
    for eid in eids:
        for name in runs.get_run(eid).data.metrics:
            if name.startswith("system/"):
                continue
            for entry in MlflowClient().get_metric_history(eid, name):
                value = values.setdefault((name, entry.step), entry.value)
                assert value == entry.value, (name, entry.step)
    return values


def assert_same_checkpoints(eid: str, expected_eid: str, folder: Path) -> None:
    """Compare weights, averages, optimizer and history of two runs."""
    pairs = zip(load_checkpoints(eid, folder), load_checkpoints(expected_eid, folder), strict=True)
    for actual, expected in pairs:
        assert actual.history == expected.history
        assert_equal(actual.state_dict, expected.state_dict)
        assert_equal(actual.training, expected.training)


def assert_equal(actual: Any, expected: Any) -> None:
    """Compare nested dicts and lists of tensors and plain values, to the last bit."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(actual[key], value)
    elif isinstance(expected, list | tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    else:
        assert actual == expected
