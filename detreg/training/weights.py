"""Where a training starts: from an earlier run, a checkpoint, published weights or nothing; decided before anything expensive."""

import hashlib
import json
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detreg.data.dataset import Dataset
from detreg.data.source import cache_folder
from detreg.errors import DataError, NotFoundError, UnreachableError, UsageError
from detreg.params import plain
from detreg.templates.template import ClassLayer, CommonParams, Template
from detreg.tracking import runs
from detreg.training.checkpoints import Checkpoint, load

PARAMS_FILE = "params.json"
CHECKPOINT_TAG = "detreg.checkpoint"
# What another start replaces, or what asks for it, is no difference between a run and the one that goes on from it.
_NOT_COMPARED = ("num_epochs", "continue_from_eid", "load_from", "pretrained_weights")


@dataclass(frozen=True)
class Start:
    """What a training starts from, in a sentence that is printed and logged."""

    sentence: str
    weights: Checkpoint | None = None
    """Weights of a new training; None starts from random ones."""
    resume: Checkpoint | None = None
    """The last checkpoint of a training that goes on; `weights` is then its best one."""
    parent: str | None = None


def resolve(template: Template, params: CommonParams, dataset: Dataset) -> Start:
    """The start that the hyperparameters ask for, read into memory.

    Raises NotFoundError, UnreachableError, UsageError or DataError, each naming what to do instead.
    """
    if params.continue_from_eid:
        start = _from_eid(params.continue_from_eid, template, params, dataset)
        return _displacing(start, params, "continue_from_eid")
    if params.load_from and params.load_from != "coco":
        start = Start(f"Starts from the weights of {params.load_from}", checkpoint_of(template, params))
        return _displacing(start, params, "load_from")
    if params.load_from or params.pretrained_weights != "none":
        return Start(f"Starts from the weights published for {params.base_model} on COCO", checkpoint_of(template, params))
    return Start("Starts from random weights")


def checkpoint_of(template: Template, params: CommonParams) -> Checkpoint:
    """The checkpoint that `load_from`, or else `pretrained_weights`, names."""
    source = params.load_from or params.pretrained_weights
    return load(published(template, params.base_model) if source == "coco" else _fetch_any(source))


def _displacing(start: Start, params: CommonParams, stronger: str) -> Start:
    if params.pretrained_weights == "none":
        return start
    return replace(start, sentence=f"{start.sentence}; {stronger} displaces pretrained_weights={params.pretrained_weights}")


def _from_eid(eid: str, template: Template, params: CommonParams, dataset: Dataset) -> Start:
    run = runs.find(eid)
    if CHECKPOINT_TAG not in run.data.tags:
        raise NotFoundError(f"run {eid} has no checkpoint to continue from: it is no training of detreg's, or ended before its first epoch")
    stored = json.loads(run.data.tags[CHECKPOINT_TAG])
    with tempfile.TemporaryDirectory() as folder:
        before = json.loads(runs.download(eid, PARAMS_FILE, Path(folder)).read_text())
        best = load(runs.download(eid, stored["best"], Path(folder)))
        different = _differences(before, template, params, dataset, stored["epoch"])
        if different:
            return Start(f"Starts a new training from the best weights of run {eid}, because {different}", best, parent=eid)
        last = load(runs.download(eid, stored["last"], Path(folder)))
    sentence = f"Resumes run {eid} after epoch {last.epoch} of {params.num_epochs}: same template, dataset and hyperparameters"
    return Start(sentence, best, last, eid)


def _differences(before: Mapping[str, Any], template: Template, params: CommonParams, dataset: Dataset, epochs: int) -> str:
    """Why a run does not simply go on, or nothing."""
    if before["template"] != template.name:
        return f"its template is {before['template']}, not {template.name}"
    if before["dataset_digest"] != dataset.digest:
        return f"its dataset is another one (digest {before['dataset_digest']}, now {dataset.digest})"
    old, new = before["hyperparameters"], plain(params)
    changed = [name for name in new if name not in _NOT_COMPARED and old.get(name) != new[name]]
    if changed:
        return "hyperparameters differ: " + ", ".join(f"{name} was {old.get(name)}, now {new[name]}" for name in changed)
    if epochs >= params.num_epochs:
        return f"it has done {epochs} epochs already and num_epochs={params.num_epochs}"
    return ""


def published(template: Template, base_model: str, into: Path | None = None) -> Path:
    """The published checkpoint of a base model: from the folder DETREG_WEIGHTS, or downloaded into the cache (or `into`) and verified.

    Raises UsageError where nobody published one, UnreachableError where it cannot be downloaded, DataError for a wrong sha256.
    """
    name = f"{base_model}_coco.pth"
    folder = os.environ.get("DETREG_WEIGHTS")
    if folder and (Path(folder) / name).is_file():
        return Path(folder) / name
    weights = template.weights[base_model]
    if not weights.url:
        alike = [other for other, entry in template.weights.items() if entry.url]
        raise UsageError(
            f"nobody published COCO weights of {base_model} in MMDetection's layout: put a file {name} into a folder and set "
            f"DETREG_WEIGHTS to the folder, or take pretrained_weights=none, or base_model={'|'.join(alike)}"
        )
    return download(weights.url, (into or cache()) / name, weights.sha256)


def cache() -> Path:
    """Where downloads are kept."""
    return cache_folder() / "weights"


def download(url: str, path: Path, sha256: str = "") -> Path:
    """Downloads `url` to `path` unless it is there, and verifies it; `sha256` may be a prefix, or empty where none is known.

    The file appears under its name only when it is whole and verified. Raises UnreachableError and DataError.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    advice = "try again, or fetch it where there is a network (detreg weights fetch) and set DETREG_WEIGHTS to its folder"
    digest, got = hashlib.sha256(), 0
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, temporary.open("wb") as file:
            expected = int(response.headers.get("Content-Length") or -1)
            while block := response.read(1 << 20):
                file.write(block)
                digest.update(block)
                got += len(block)
        if expected not in (-1, got):
            raise UnreachableError(f"{url} was cut off after {got} of {expected} bytes: {advice}")
        if not digest.hexdigest().startswith(sha256):
            raise DataError(f"{url} has sha256 {digest.hexdigest()[:16]}..., not {sha256}: it is not the published file, nothing was kept")
        temporary.replace(path)
    except urllib.error.HTTPError as error:
        raise UnreachableError(f"{url} answers {error.code} {error.reason}: {advice}") from error
    except (urllib.error.URLError, OSError) as error:
        raise UnreachableError(f"{url} cannot be downloaded ({getattr(error, 'reason', error)}): {advice}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _fetch_any(source: str) -> Path:
    """A local file of a load_from: a URL (with `#sha256=...` to verify it), runs:/..., models:/... or a path."""
    if re.match(r"https?://", source):
        url, _, fragment = source.partition("#")
        name = hashlib.sha256(source.encode()).hexdigest()[:16] + ".pth"
        return download(url, cache() / name, fragment.removeprefix("sha256="))
    if re.match(r"(runs|models):/", source):
        return _from_mlflow(source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise NotFoundError(f"load_from={source} is not a file; it takes coco, a URL, a path, runs:/..., or models:/...")
    return path


def _from_mlflow(uri: str) -> Path:
    """A checkpoint in an artifact URI: the file itself, or for a run or a registered model the best checkpoint of its run."""
    import mlflow
    from mlflow.exceptions import MlflowException

    folder = Path(tempfile.mkdtemp(prefix="detreg-weights-"))
    try:
        if uri.endswith(".pth"):
            return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
        registered = uri.startswith("models:/")
        eid = mlflow.models.get_model_info(uri).run_id if registered else uri.removeprefix("runs:/").split("/")[0]
    except (MlflowException, OSError) as error:
        raise NotFoundError(f"load_from={uri} cannot be read: {runs.one_line(error)}") from error
    tags = runs.find(eid).data.tags
    if CHECKPOINT_TAG not in tags:
        raise NotFoundError(f"load_from={uri}: run {eid} has no checkpoint")
    return runs.download(eid, json.loads(tags[CHECKPOINT_TAG])["best"], folder)


def fill(model: nn.Module, start: Checkpoint, classes: tuple[str, ...], layers: tuple[ClassLayer, ...]) -> list[str]:
    """Puts a checkpoint's weights into `model`; outputs of classes go by name. Returns sentences on what was kept and what was not.

    Raises DataError where nothing of the backbone fits.
    """
    own = model.state_dict()
    fitting: dict[str, Tensor] = {}
    misfits = []
    shared = [name for name in classes if name in start.classes]
    for name, value in start.state_dict.items():
        layer = next((layer for layer in layers if re.fullmatch(layer.pattern, name)), None)
        if name not in own:
            continue
        if layer is not None and own[name].shape[1:] == value.shape[1:] and len(value) == layer.groups * len(start.classes):
            fitting[name] = _by_class(own[name].clone(), value, classes, start.classes, layer.groups)
        elif layer is not None and not start.classes:
            misfits.append(f"{name} is of classes that the checkpoint does not name")
        elif own[name].shape == value.shape:
            fitting[name] = value
        else:
            misfits.append(f"{name} is {tuple(value.shape)} there and {tuple(own[name].shape)} here")
    # Counters of batches are in every network and fit everywhere.
    if not any(name.startswith("backbone.") and value.ndim for name, value in fitting.items()):
        raise DataError("nothing of the checkpoint's backbone fits this base model: " + ("; ".join(misfits[:3]) or "no name in common"))
    model.load_state_dict(fitting, strict=False)
    absent = [name for name in own if name not in start.state_dict and not name.endswith("num_batches_tracked")]
    told = [f"{len(fitting)} of {len(own)} tensors taken; classes kept by name: {', '.join(shared) or 'none'}"]
    if misfits:
        told.append(f"{len(misfits)} tensors do not fit and start afresh: {_some(misfits)}")
    if absent:
        told.append(f"{len(absent)} tensors are not in the checkpoint and start afresh: {_some(absent)}")
    return told


def _some(names: list[str]) -> str:
    return "; ".join(names[:10]) + (f"; and {len(names) - 10} more" if len(names) > 10 else "")


def _by_class(own: Tensor, other: Tensor, classes: tuple[str, ...], other_classes: tuple[str, ...], groups: int) -> Tensor:
    """`own` with the rows of the classes that both know, in each of `groups` blocks of one row per class."""
    target = own.view(groups, len(classes), *own.shape[1:])
    source = other.view(groups, len(other_classes), *other.shape[1:])
    for position, name in enumerate(classes):
        if name in other_classes:
            target[:, position] = source[:, other_classes.index(name)]
    return own
