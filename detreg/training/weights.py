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
from detreg.data.source import resolve_cache_folder
from detreg.errors import (
    DataError,
    NotFoundError,
    UnreachableError,
    UsageError,
    summarize_error,
)
from detreg.params import get_params, to_plain
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams
from detreg.templates.template import ClassLayer, Template
from detreg.tracking import runs
from detreg.training.checkpoints import Checkpoint, load, save

PARAMS_FILE = "params.json"
# What another start replaces, or what asks for it, is no difference between a run and the one that goes on from it.
_NOT_COMPARED = (
    "num_epochs",
    "continue_from_eid",
    "load_from",
    "pretrained_weights",
    "pretrain_base_data",
)


@dataclass(frozen=True)
class InitialWeights:
    """What a training starts from, in a sentence that is printed and logged."""

    sentence: str
    weights: Checkpoint | None = None
    """Weights of a new training; None starts from random ones."""
    resume: Checkpoint | None = None
    """The last checkpoint of a training that goes on; `weights` is then its best one."""
    parent: str | None = None
    backbone_is_filled: bool = True
    """Whether the backbone had weights when the training began: for one that is resumed, when it first began."""


def resolve(template: Template, params: CommonParams, dataset: Dataset) -> InitialWeights:
    """The start that the hyperparameters ask for, read into memory.

    Raises NotFoundError, UnreachableError, UsageError or DataError, each naming what to do instead.
    """
    if not params.sources:
        return InitialWeights("Starts from random weights", backbone_is_filled=False)
    (name, value), *weaker = params.sources.items()
    if name == "continue_from_eid":
        start = _from_eid(value, template, params, dataset)
    elif name == "load_from" and value != "coco":
        start = InitialWeights(
            f"Starts from the weights of {value}", checkpoint_of(template, params)
        )
    else:
        part = "" if value == "coco" else "the backbone of "
        data = {"coco": "COCO", "mscoco": "COCO", "imagenet": "ImageNet"}[value]
        start = InitialWeights(
            f"Starts from the weights published for {part}{params.base_model} on {data}",
            checkpoint_of(template, params),
        )
    if not weaker:
        return start
    overridden = ", ".join(f"{other}={text}" for other, text in weaker)
    return replace(start, sentence=f"{start.sentence}; {name} overrides {overridden}")


def checkpoint_of(template: Template, params: CommonParams) -> Checkpoint:
    """The checkpoint that the strongest source but `continue_from_eid` names. Raises UsageError where there is none."""
    sources = {name: value for name, value in params.sources.items() if name != "continue_from_eid"}
    if not sources:
        raise UsageError("no weights are named: give load_from, or pretrained_weights")
    name, value = next(iter(sources.items()))
    if name == "load_from" and value != "coco":
        return load(_fetch_any(value))
    if value == "imagenet":
        return load(imagenet(template, params.base_model, asked_by=name))
    checkpoint = load(published(template, params.base_model, asked_by=name))
    if value == "mscoco":
        state = {
            key: tensor
            for key, tensor in checkpoint.state_dict.items()
            if key.startswith("backbone.")
        }
        return replace(checkpoint, state_dict=state)
    return checkpoint


def _from_eid(
    eid: str, template: Template, params: CommonParams, dataset: Dataset
) -> InitialWeights:
    stored = runs.find_checkpoints(eid)
    if stored is None:
        raise NotFoundError(
            f"run {eid} has no checkpoint to continue from: it is no training of detreg's, or ended before its first epoch"
        )
    with tempfile.TemporaryDirectory() as folder:
        before = json.loads(runs.download_artifact(eid, PARAMS_FILE, Path(folder)).read_text())
        best = load(runs.download_artifact(eid, stored.best, Path(folder)))
        different = _differences(before, template, params, dataset, stored.epoch)
        if different:
            return InitialWeights(
                f"Starts a new training from the best weights of run {eid}, because {different}",
                best,
                parent=eid,
            )
        last = load(runs.download_artifact(eid, stored.last, Path(folder)))
    sentence = f"Resumes run {eid} after epoch {last.epoch} of {params.num_epochs}: same template, dataset and hyperparameters"
    # Runs from before this was written down trained the batch-norms of a backbone without frozen stages.
    return InitialWeights(sentence, best, last, eid, before.get("backbone_is_filled", False))


def _differences(
    before: Mapping[str, Any],
    template: Template,
    params: CommonParams,
    dataset: Dataset,
    epochs: int,
) -> str:
    """Why a run does not simply go on, or nothing."""
    if before["template"] != template.name:
        return f"its template is {before['template']}, not {template.name}"
    if before["dataset_digest"] != dataset.digest:
        return (
            f"its dataset is another one (digest {before['dataset_digest']}, now {dataset.digest})"
        )
    old, new = before["hyperparameters"], to_plain(params)
    changed = [name for name in new if name not in _NOT_COMPARED and old.get(name) != new[name]]
    if changed:
        return "hyperparameters differ: " + ", ".join(
            f"{name} was {old.get(name)}, now {new[name]}" for name in changed
        )
    if epochs >= params.num_epochs:
        return f"it has done {epochs} epochs already and num_epochs={params.num_epochs}"
    return ""


def published(
    template: Template,
    base_model: str,
    into: Path | None = None,
    asked_by: str = "pretrained_weights",
) -> Path:
    """The published COCO checkpoint of a base model: from the folder DETREG_WEIGHTS, or downloaded into the cache (or `into`).

    `asked_by` is the parameter that asks for it, which the advice is about.

    Raises UsageError where nobody published one, UnreachableError where it cannot be downloaded, DataError for a wrong sha256.
    """
    weights = template.base_models[base_model]
    name = f"{base_model}_coco.pth"
    # YOLOF, Faster R-CNN and RetinaNet all have a resnet50.
    own_name = f"{template.name}_{name}"
    folder = os.environ.get("DETREG_WEIGHTS")
    for candidate in (own_name, name):
        if folder and (Path(folder) / candidate).is_file():
            return _not_of_another(Path(folder) / candidate, template, base_model)
    if weights.coco_weights is None:
        alternatives = _alternatives(template, base_model, asked_by)
        raise UsageError(
            f"{asked_by}: nobody published COCO weights of {base_model} in MMDetection's layout: put a file {name} into a folder and "
            f"set DETREG_WEIGHTS to the folder, or {alternatives}"
        )
    known = weights.coco_weights
    return download(known.url, (into or cache()) / own_name, known.sha256)


def _alternatives(template: Template, base_model: str, asked_by: str) -> str:
    """What else the parameter `asked_by` can be where nobody published COCO weights of the base model."""
    param = get_params(template.params)[asked_by]
    others = [choice for choice in param.choices or () if choice not in ("coco", "mscoco")]
    if not template.base_models[base_model].imagenet:
        others = [choice for choice in others if choice != "imagenet"]
    words = f"take {asked_by}={'|'.join(others)}" if others else f"leave {asked_by} out"
    alike = [other for other, entry in template.base_models.items() if entry.coco_weights]
    return f"{words}, or base_model={'|'.join(alike)}" if alike else words


def _not_of_another(path: Path, template: Template, base_model: str) -> Path:
    """Raises DataError for the file that was published for another template's base model of the same name."""
    own = template.base_models[base_model].coco_weights
    others: dict[str, str] = {}
    for other in TEMPLATES.values():
        namesake = other.base_models.get(base_model)
        if namesake and namesake.coco_weights and namesake.coco_weights != own:
            others[other.name] = namesake.coco_weights.sha256

    if others:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        for name, sha256 in others.items():
            if digest.startswith(sha256):
                raise DataError(
                    f"{path} holds the weights of {name}, not of {template.name}: name it {name}_{base_model}_coco.pth"
                )
    return path


def imagenet(
    template: Template,
    base_model: str,
    into: Path | None = None,
    asked_by: str = "pretrained_weights",
) -> Path:
    """ImageNet weights of a base model's backbone: from the folder DETREG_WEIGHTS, or by the library that has them, kept in the cache.

    Raises UsageError where there are none, UnreachableError where they cannot be downloaded.
    """
    from detreg.training.backbones import load_imagenet_weights

    name = f"{base_model}_imagenet.pth"
    folder = os.environ.get("DETREG_WEIGHTS")
    if folder and (Path(folder) / name).is_file():
        return Path(folder) / name
    source = template.base_models[base_model].imagenet
    if not source:
        raise UsageError(
            f"{asked_by}: there are no ImageNet weights for the backbone of {template.name}'s {base_model}: take coco"
        )
    path = (into or cache()) / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            state = load_imagenet_weights(source)
        except Exception as error:  # whatever the library's own downloader raises
            raise UnreachableError(
                f"the ImageNet weights {source} cannot be downloaded ({summarize_error(error)[:200]}): fetch them where there is a network "
                f"(detreg weights fetch {template.name} --base_model {base_model}) and set DETREG_WEIGHTS to the folder of {name}"
            ) from error
        save(path, Checkpoint(state))
    return path


def cache() -> Path:
    """Where downloads are kept."""
    return resolve_cache_folder() / "weights"


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
            raise DataError(
                f"{url} has sha256 {digest.hexdigest()[:16]}..., not {sha256}: it is not the published file, nothing was kept"
            )
        temporary.replace(path)
    except urllib.error.HTTPError as error:
        raise UnreachableError(f"{url} answers {error.code} {error.reason}: {advice}") from error
    except (urllib.error.URLError, OSError) as error:
        raise UnreachableError(
            f"{url} cannot be downloaded ({getattr(error, 'reason', error)}): {advice}"
        ) from error
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
        raise NotFoundError(
            f"load_from={source} is not a file; it takes coco, a URL, a path, runs:/..., or models:/..."
        )
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
        eid = (
            mlflow.models.get_model_info(uri).run_id
            if registered
            else uri.removeprefix("runs:/").split("/")[0]
        )
    except (MlflowException, OSError) as error:
        raise NotFoundError(f"load_from={uri} cannot be read: {summarize_error(error)}") from error
    stored = runs.find_checkpoints(eid)
    if stored is None:
        raise NotFoundError(f"load_from={uri}: run {eid} has no checkpoint")
    return runs.download_artifact(eid, stored.best, folder)


def fill(
    model: nn.Module, start: Checkpoint, classes: tuple[str, ...], layers: tuple[ClassLayer, ...]
) -> list[str]:
    """Puts a checkpoint's weights into `model`; outputs of classes go by name. Returns sentences on what was kept and what was not.

    Raises DataError where nothing of the backbone fits.
    """
    own = model.state_dict()
    fitting: dict[str, Tensor] = {}
    misfits = []
    shared = [name for name in classes if name in start.classes]
    by_class = 0
    for name, value in start.state_dict.items():
        layer = next((layer for layer in layers if re.fullmatch(layer.pattern, name)), None)
        if name not in own:
            continue
        if (
            layer is not None
            and start.classes
            and own[name].shape[1:] == value.shape[1:]
            and _blocks(layer, own[name], classes) == _blocks(layer, value, start.classes)
        ):
            fitting[name] = _by_class(own[name].clone(), value, classes, start.classes, layer)
            by_class += 1
        elif layer is not None and not start.classes:
            misfits.append(f"{name} is of classes that the checkpoint does not name")
        elif own[name].shape == value.shape:
            fitting[name] = value
        else:
            misfits.append(
                f"{name} is {tuple(value.shape)} there and {tuple(own[name].shape)} here"
            )
    # Counters of batches are in every network and fit everywhere.
    if not any(name.startswith("backbone.") and value.ndim for name, value in fitting.items()):
        raise DataError(
            "nothing of the checkpoint's backbone fits this base model: "
            + ("; ".join(misfits[:3]) or "no name in common")
        )
    model.load_state_dict(fitting, strict=False)
    absent = [
        name
        for name in own
        if name not in start.state_dict and not name.endswith("num_batches_tracked")
    ]
    told = [f"{len(fitting)} of {len(own)} tensors taken"]
    if by_class:
        told[0] += f"; classes kept by name: {', '.join(shared) or 'none'}"
    if misfits:
        told.append(f"{len(misfits)} tensors do not fit and start afresh: {_some(misfits)}")
    if absent:
        told.append(
            f"{len(absent)} tensors are not in the checkpoint and start afresh: {_some(absent)}"
        )
    return told


def _some(names: list[str]) -> str:
    return "; ".join(names[:10]) + (f"; and {len(names) - 10} more" if len(names) > 10 else "")


def _blocks(layer: ClassLayer, value: Tensor, classes: tuple[str, ...]) -> float:
    """How many blocks with a row for each class a tensor has; no integer where it is of other classes."""
    return len(value) / (layer.rows * (len(classes) + layer.background))


def _by_class(
    own: Tensor,
    other: Tensor,
    classes: tuple[str, ...],
    other_classes: tuple[str, ...],
    layer: ClassLayer,
) -> Tensor:
    """`own` with the rows of the classes that both know, and of the background, in each block."""
    target = own.view(-1, len(classes) + layer.background, layer.rows, *own.shape[1:])
    source = other.view(-1, len(other_classes) + layer.background, layer.rows, *other.shape[1:])
    for position, name in enumerate(classes):
        if name in other_classes:
            target[:, position] = source[:, other_classes.index(name)]
    if layer.background:
        target[:, -1] = source[:, -1]
    return own
