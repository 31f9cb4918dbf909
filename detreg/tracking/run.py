"""A handle on an MLflow run, with which everything is written to it.

Passwords and tokens are hidden before the journal gets them.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from mlflow import MlflowClient

from detreg.data.dataset import Dataset
from detreg.redaction import redact
from detreg.tracking.journal import OUTBOX
from detreg.tracking.records import (
    CHECKPOINT,
    Artifact,
    DatasetOfRun,
    Description,
    Metrics,
    Params,
    Record,
    SavedCheckpoints,
    Tags,
    Target,
)
from detreg.tracking.sender import PATIENCE, Sender

TRAINING = "training"
SCORING_CONTEXTS = {"val": "validation", "test": "testing"}
"""What each split is for, as MLflow's examples name the context of a dataset."""

MIN_LINKED_SIZE = 1 << 20
"""Bytes of a file from which on a link takes the place of a copy."""


@dataclass(frozen=True)
class StoredCheckpoints:
    """The two checkpoints of a run that are uploaded completely.

    `last` and `best` are the names of the artifacts; `epoch` is the last epoch that both know of,
    `step` how many steps of the next one `last` has done.
    """

    epoch: int
    last: str
    best: str
    step: int = 0


@dataclass
class Run:
    """A handle on one MLflow run.

    `folder` is a local folder for its files, which is removed when everything has arrived. The run
    of `start_run` has a sender: what it writes goes to a journal on the disk, and from there to
    MLflow in the background. Without one it goes to MLflow at once, whose errors are raised.
    """

    id: str
    folder: Path
    sender: Sender | None = None
    checkpoints: StoredCheckpoints | None = None
    """What was recorded last by `tag_checkpoints`: it is in MLflow or in the journal."""

    def log_params(self, texts: Mapping[str, str]) -> None:
        """Log the parameters that are not logged yet.

        `mlflow run` has logged its own ones before, and MLflow refuses a second value.
        """
        self.write(Params({name: redact(text) for name, text in texts.items()}))

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics in one request.

        NaN and infinity are left out: MLflow reads NaN as 1.8e308.
        """
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        if finite:
            self.write(Metrics(finite, step, get_time()))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; a value that is longer than MLflow takes is cut."""
        self.write(Tags({name: redact(text) for name, text in tags.items()}))

    def describe(self, markdown: str) -> None:
        """Set the description that MLflow shows, unless somebody has written one."""
        self.write(Description(redact(markdown)))

    def tag_checkpoints(self, stored: StoredCheckpoints) -> None:
        """Record which checkpoints are complete, once both are uploaded.

        The order of writes is that of their delivery: the tag follows the files.
        """
        self.set_tags({CHECKPOINT: json.dumps(asdict(stored))})
        self.checkpoints = stored

    def note_saved_checkpoints(self, epoch: int, last: str, best: str, step: int = 0) -> None:
        """Note that the files `last` and `best` in the run's folder are of this epoch now.

        Nothing is sent. After a kill it tells that they are newer than the uploaded ones.
        """
        self.write(SavedCheckpoints(epoch, step, last, best))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or a folder's content, to the run's artifacts under `folder`.

        What is uploaded is the content at the time of this call.
        """
        kept = path.absolute() if self.sender is None else self._keep_copy(path)
        self.write(Artifact(str(kept), folder))

    def log_text(self, text: str, name: str) -> None:
        """Upload a text as the artifact `name`."""
        if self.sender is None:
            MlflowClient().log_text(self.id, redact(text), name)
            return

        artifact = PurePosixPath(name)
        kept = self._make_outbox_folder() / artifact.name
        (self.folder / kept).write_text(redact(text), encoding="utf-8")
        folder = str(artifact.parent) if len(artifact.parts) > 1 else None
        self.write(Artifact(str(kept), folder))

    def log_dataset(self, dataset: Dataset) -> None:
        """Log a dataset as an input: its name and digest, and in its profile counts and traits."""
        counts = {}
        for name, split in dataset.splits.items():
            counts[name] = {"images": split.images, "boxes": split.boxes}
            if dataset.masks_digest:
                counts[name]["masks"] = split.masks
        profile = {
            "format": dataset.format,
            "splits": counts,
            "traits": dataset.traits.to_json(),
            "repairs": dict(dataset.repairs),
        }
        if dataset.masks_digest:
            profile["masks_digest"] = dataset.masks_digest
        self._log_input(dataset, dataset.name, profile, TRAINING)

    def log_scoring_splits(self, dataset: Dataset) -> None:
        """Log the splits that a training scores as inputs, each with what it is for.

        The digest is that of the whole dataset, so that all inputs of a run have one. MLflow keeps
        one context for a name and a digest, so a split has a name of its own.
        """
        for name, split in dataset.splits.items():
            context = SCORING_CONTEXTS.get(name)
            if context is None:
                continue
            per_class = dict(zip(dataset.classes, split.boxes_per_class, strict=True))
            profile = {"images": split.images, "boxes": split.boxes, "boxes_per_class": per_class}
            self._log_input(dataset, f"{dataset.name}-{name}", profile, context)

    def _log_input(
        self, dataset: Dataset, name: str, profile: Mapping[str, object], context: str
    ) -> None:
        self.write(
            DatasetOfRun(
                name=name,
                digest=dataset.digest,
                source=json.dumps({"uri": dataset.origin}),
                schema=json.dumps({"classes": dataset.classes}),
                profile=json.dumps(profile),
                context=context,
            )
        )

    @property
    def is_uploading(self) -> bool:
        """Whether files wait for their upload."""
        return self.sender is not None and self.sender.journal.has_pending_files

    @property
    def upload_seconds(self) -> float:
        """How long the upload of the last file took."""
        return 0.0 if self.sender is None else self.sender.upload_seconds

    def wait_until_delivered(self) -> bool:
        """Wait until MLflow has everything, a bounded time; return whether it has."""
        return self.sender is None or self.sender.wait(PATIENCE)

    def write(self, record: Record) -> None:
        """Write a record to the journal. Raises OSError where the disk refuses that."""
        if self.sender is None:
            record.deliver(Target(MlflowClient(), self.id, self.folder))
            return
        self.sender.journal.append(record)
        self.sender.wake()

    def _keep_copy(self, path: Path) -> Path:
        """Keep a file or a folder as it is now; return its path in the run's folder."""
        kept = self._make_outbox_folder() / path.name
        if path.is_dir():
            shutil.copytree(path, self.folder / kept, copy_function=_link_or_copy)
        else:
            _link_or_copy(path, self.folder / kept)
        return kept

    def _make_outbox_folder(self) -> Path:
        """Create a folder for the files of the next record; return its path in the run's folder."""
        assert self.sender is not None
        relative = Path(OUTBOX) / str(len(self.sender.journal.records))
        # One that is there was left by a process that died before it wrote the record.
        shutil.rmtree(self.folder / relative, ignore_errors=True)
        (self.folder / relative).mkdir(parents=True)
        return relative


def get_time() -> int:
    """Return the time in milliseconds since 1970, as MLflow counts it."""
    return int(time.time() * 1000)


def _link_or_copy(source: str | Path, target: str | Path) -> str:
    """Keep a file as it is now.

    A link to a large one costs nothing. That is exact for files which are replaced and never
    changed, such as checkpoints (files.write_atomically).
    """
    if Path(source).stat().st_size >= MIN_LINKED_SIZE:
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, target)
    else:
        shutil.copyfile(source, target)
    return str(target)
