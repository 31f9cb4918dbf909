"""What a run writes, as values that a journal keeps and that can be delivered to MLflow.

Each record can be delivered twice without harm, because nobody knows after a lost answer whether it
has arrived: MLflow keeps a metric once that has the same name, step, timestamp and value, a tag
and a file replace those of the same name, a parameter is written only where there is none yet, and
a dataset is an input of a run once, whose name and digest it is known by.
"""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from mlflow import MlflowClient
from mlflow.entities import Dataset as LoggedDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from detreg.errors import UndeliveredError
from detreg.mlflow_errors import retry_on_conflict
from detreg.promotion_rule import BETTER

FAILURE = "detreg.failure"
"""The tag with the reason of a run that did not finish."""
CHECKPOINT = "detreg.checkpoint"
"""The tag that names a run's checkpoints; it holds a StoredCheckpoints as JSON."""

VERSION_MARK = "%version%"
"""Stands for the number of a version in its description, until it is registered."""

DEATH = "its process "
"""How the reason of a run begins that was ended because its process was taken for dead."""

# MLflow's limits.
MAX_TAG_LENGTH = 5000
MAX_METRICS_PER_REQUEST = 1000


@dataclass(frozen=True)
class Target:
    """Where a record goes: a run of a tracking store, whose local folder has the files."""

    client: MlflowClient
    run_id: str
    folder: Path
    register: "Register | None" = None
    """Logs and registers a model; only `detreg sync` has it."""


@dataclass(frozen=True)
class Record:
    """Something that a run has written."""

    kinds: ClassVar[dict[str, type["Record"]]] = {}

    def __init_subclass__(cls) -> None:
        Record.kinds[cls.__name__] = cls

    def deliver(self, target: Target) -> None:
        """Send it. Raises what MLflow raises."""
        # A sweep may tag the run of a lost worker while that worker tags it too, and its workers
        # log the same dataset at the same time.
        retry_on_conflict(lambda: self._send(target))

    def _send(self, target: Target) -> None:
        raise NotImplementedError

    def discard(self, folder: Path) -> None:
        """Remove what the run's folder keeps for it, which has arrived."""

    def to_json(self) -> str:
        """Return it as one line of text."""
        return json.dumps({"kind": type(self).__name__, **asdict(self)})

    @staticmethod
    def from_json(line: str) -> "Record":
        """Return the record of a line. Raises KeyError, TypeError or ValueError for another one."""
        content = json.loads(line)
        kind = Record.kinds[content.pop("kind")]
        return kind(**content)


@dataclass(frozen=True)
class Metrics(Record):
    """Finite values of one step; `time` is in milliseconds since 1970."""

    values: Mapping[str, float]
    step: int
    time: int

    def _send(self, target: Target) -> None:
        """Send them with the time at which they were logged."""
        metrics = [Metric(name, value, self.time, self.step) for name, value in self.values.items()]
        for first in range(0, len(metrics), MAX_METRICS_PER_REQUEST):
            batch = metrics[first : first + MAX_METRICS_PER_REQUEST]
            target.client.log_batch(target.run_id, metrics=batch)


@dataclass(frozen=True)
class Params(Record):
    """Parameters as texts."""

    texts: Mapping[str, str]

    def _send(self, target: Target) -> None:
        """Send those that are not there: `mlflow run` has its own, and no value can be changed."""
        logged = target.client.get_run(target.run_id).data.params
        params = [Param(name, text) for name, text in self.texts.items() if name not in logged]
        target.client.log_batch(target.run_id, params=params)


@dataclass(frozen=True)
class Tags(Record):
    """Tags; a value that is longer than MLflow takes is cut."""

    tags: Mapping[str, str]

    def _send(self, target: Target) -> None:
        """Set them."""
        tags = [RunTag(name, value[:MAX_TAG_LENGTH]) for name, value in self.tags.items()]
        target.client.log_batch(target.run_id, tags=tags)


@dataclass(frozen=True)
class Description(Record):
    """The description of the run in markdown; one that somebody has written stays."""

    text: str

    def _send(self, target: Target) -> None:
        """Set it where there is none."""
        if MLFLOW_RUN_NOTE not in target.client.get_run(target.run_id).data.tags:
            text = self.text[:MAX_TAG_LENGTH]
            target.client.log_batch(target.run_id, tags=[RunTag(MLFLOW_RUN_NOTE, text)])


@dataclass(frozen=True)
class Artifact(Record):
    """A file, or the content of a folder, for the artifact folder `artifact_folder`.

    `path` is absolute, or that of a copy in the run's folder.
    """

    path: str
    artifact_folder: str | None

    def _send(self, target: Target) -> None:
        """Upload it; a copy that is gone, after a failure of the power, is left out."""
        path = target.folder / self.path
        if not path.exists():
            message = f"run {target.run_id} lacks the artifact {path.name}: {path} is gone"
            print(message, file=sys.stderr, flush=True)
            return
        if path.is_dir():
            target.client.log_artifacts(target.run_id, str(path), self.artifact_folder)
        else:
            target.client.log_artifact(target.run_id, str(path), self.artifact_folder)

    def discard(self, folder: Path) -> None:
        """Remove the copy."""
        if not Path(self.path).is_absolute():
            shutil.rmtree((folder / self.path).parent, ignore_errors=True)


@dataclass(frozen=True)
class DatasetOfRun(Record):
    """A dataset, or a split of it, as an input of the run.

    `source`, `schema` and `profile` are JSON. `context` says what for, in the words of MLflow's own
    examples: training, validation or testing.
    """

    name: str
    digest: str
    source: str
    schema: str
    profile: str
    context: str = "training"  # journals of detreg 0.1 have none

    def _send(self, target: Target) -> None:
        """Log the input."""
        dataset = LoggedDataset(
            name=self.name,
            digest=self.digest,
            source_type="local",
            source=self.source,
            schema=self.schema,
            profile=self.profile,
        )
        dataset_input = DatasetInput(dataset, [InputTag("mlflow.data.context", self.context)])
        target.client.log_inputs(target.run_id, [dataset_input])


@dataclass(frozen=True)
class SavedCheckpoints(Record):
    """The run's folder has checkpoints now that are `epoch` epochs and `step` steps old.

    Nothing is sent: it tells whoever finds the folder after a kill whether the checkpoints in it
    are newer than those that were uploaded.
    """

    epoch: int
    step: int
    last: str
    best: str

    def _send(self, target: Target) -> None:
        """Do nothing."""

    def is_newer_than(self, stored: Mapping[str, object]) -> bool:
        """Whether they come after those that a run's tag names."""
        position = (stored.get("epoch", 0), stored.get("step", 0))
        return (self.epoch, self.step) > position

    def to_tag(self, slot: str) -> str:
        """Return the run's tag, once they are uploaded to the artifact folder `slot`."""
        content: dict[str, object] = {
            "epoch": self.epoch,
            "last": f"{slot}/{self.last}",
            "best": f"{slot}/{self.best}",
        }
        if self.step:
            content["step"] = self.step
        return json.dumps(content)


@dataclass(frozen=True)
class Registration(Record):
    """A model that is to be logged and registered, because MLflow did not answer in its time.

    `path` is the ONNX file in the run's folder, the others are those of tracking.registry.register.
    """

    path: str
    name: str
    score: float | None
    dataset_digest: str
    tags: Mapping[str, str]
    # Journals of earlier releases have none of these.
    promote_if: str = BETTER
    annotations: str | None = None
    """The canonical COCO file of the val split, on which it is compared with the champion."""
    model_description: str = ""
    version_description: str = ""
    """In markdown; VERSION_MARK stands for the number of the version."""

    def _send(self, target: Target) -> None:
        """Register the model. Raises UndeliveredError where nobody can do that here."""
        if target.register is None:
            raise UndeliveredError(f"detreg sync {target.run_id} registers the model")
        target.register(target, self)


Register = Callable[[Target, Registration], None]
"""Logs the model of a registration to the target's run, and registers it."""


@dataclass(frozen=True)
class End(Record):
    """The end of a run with its MLflow status; `time` is in milliseconds since 1970."""

    status: str
    time: int

    def _send(self, target: Target) -> None:
        """End the run, also where another machine has taken it for dead meanwhile."""
        if self.status == "FINISHED":
            tags = target.client.get_run(target.run_id).data.tags
            if tags.get(FAILURE, "").startswith(DEATH):
                target.client.delete_tag(target.run_id, FAILURE)
        target.client.set_terminated(target.run_id, self.status, self.time)
