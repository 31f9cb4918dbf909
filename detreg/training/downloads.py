"""Files of weights: from a folder, a cache, the network, a library or MLflow.

The folder in the environment variable DETREG_WEIGHTS comes first, so that machines without a
network can train. What is downloaded stays in the cache.
"""

import atexit
import hashlib
import os
import re
import shutil
import tempfile
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import mlflow
from mlflow.exceptions import MlflowException

from detreg.errors import DataError, NotFoundError, UnreachableError, UsageError, summarize_error
from detreg.files import compute_sha256, write_atomically
from detreg.params import get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template
from detreg.tracking import runs
from detreg.training import backbones
from detreg.training.checkpoints import Checkpoint, save_checkpoint
from detreg.training.weights_cache import get_weights_cache, is_unchanged, keep_sha256
from detreg.web import Response, open_url

_ADVICE = (
    "try again, or fetch it where there is a network (detreg weights fetch) and set DETREG_WEIGHTS "
    "to its folder"
)


def fetch_coco_weights(
    template: Template,
    base_model: str,
    into: Path | None = None,
    asked_by: str = "pretrained_weights",
    with_masks: bool = False,
) -> Path:
    """Return the published COCO checkpoint of a base model, downloaded if need be.

    It is looked for in DETREG_WEIGHTS, then in the folder `into` or the cache, to which it is
    downloaded. `asked_by` is the parameter that asks for it, which the advice is about. With masks
    it is the one of boxes and masks, where one was published.

    Raises UsageError where nobody published one, UnreachableError where it cannot be downloaded,
    DataError for a wrong sha256.
    """
    weights = template.base_models[base_model]
    masks = weights.masks if with_masks else None
    published = masks.coco_weights if masks else weights.coco_weights
    name = f"{base_model}_masks_coco.pth" if masks else f"{base_model}_coco.pth"
    # YOLOF, Faster R-CNN and RetinaNet all have a resnet50: the name with the template comes first.
    full_name = f"{template.name}_{name}"
    found = _find_in_folder(full_name) or _find_in_folder(name)
    if found is not None:
        _check_not_of_another(found, template, base_model)
        return found

    if published is None:
        alternatives = _suggest_alternatives(template, base_model, asked_by)
        raise UsageError(
            f"{asked_by}: nobody published COCO weights of {base_model} in MMDetection's layout: "
            f"put a file {name} into a folder and set DETREG_WEIGHTS to the folder, or "
            f"{alternatives}"
        )
    path = (into or get_weights_cache()) / full_name
    return download_file(published.url, path, published.sha256)


def fetch_imagenet_weights(
    template: Template,
    base_model: str,
    into: Path | None = None,
    asked_by: str = "pretrained_weights",
) -> Path:
    """Return ImageNet weights of a base model's backbone, downloaded if need be.

    They are looked for in DETREG_WEIGHTS, then in the folder `into` or the cache, where they are
    kept after the library that publishes them has downloaded them.

    Raises UsageError where there are none, UnreachableError where they cannot be downloaded.
    """
    name = f"{base_model}_imagenet.pth"
    found = _find_in_folder(name)
    if found is not None:
        return found

    source = template.base_models[base_model].imagenet
    if not source:
        raise UsageError(
            f"{asked_by}: there are no ImageNet weights for the backbone of {template.name}'s "
            f"{base_model}: take coco"
        )
    path = (into or get_weights_cache()) / name
    if is_unchanged(path):
        return path

    try:
        state_dict = backbones.load_imagenet_weights(source)
    except Exception as error:  # whatever the library's own downloader raises
        raise UnreachableError(
            f"the ImageNet weights {source} cannot be downloaded "
            f"({summarize_error(error)[:200]}): fetch them where there is a network "
            f"(detreg weights fetch {template.name} --base_model {base_model}) and set "
            f"DETREG_WEIGHTS to the folder of {name}"
        ) from error
    save_checkpoint(path, Checkpoint(state_dict))
    keep_sha256(path, compute_sha256(path))
    return path


def fetch_checkpoint(source: str) -> Path:
    """Return the local file that a value of `load_from` names.

    `source` is a URL (with `#sha256=...` to verify it), runs:/..., models:/... or a path.

    Raises NotFoundError, and the errors of a download.
    """
    if re.match(r"https?://", source):
        url, _, fragment = source.partition("#")
        name = hashlib.sha256(source.encode()).hexdigest()[:16] + ".pth"
        return download_file(url, get_weights_cache() / name, fragment.removeprefix("sha256="))

    if re.match(r"(runs|models):/", source):
        return _download_from_mlflow(source)

    path = Path(source).expanduser()
    if not path.is_file():
        raise NotFoundError(
            f"load_from={source} is not a file: it must be coco, a URL, a path, runs:/..., or "
            "models:/..."
        )
    return path


def download_file(url: str, path: Path, sha256: str = "") -> Path:
    """Download `url` to `path` unless it is there, verify it, and return `path`.

    `sha256` may be a prefix, or empty where none is known. The file appears under its name only
    when it is whole and verified. One that is there is verified again each time, which takes a
    tenth of a second for 100 MB, and downloaded again where it has changed.

    Raises UnreachableError, DataError for a wrong sha256 or too many bytes, and RefusedError for an
    address that is not public.
    """
    if is_unchanged(path, sha256):
        return path

    with _translate_errors(url), write_atomically(path) as file:
        # What is raised in here, before the end of the block, leaves no file.
        with open_url(url) as response:
            digest = _copy_response(response, file)
        if not digest.startswith(sha256):
            raise DataError(
                f"{url} has sha256 {digest[:16]}..., not {sha256}: it is not the published file, "
                "nothing was kept"
            )
    keep_sha256(path, digest)
    return path


def _copy_response(response: Response, file: BinaryIO) -> str:
    """Write a response to a file and return its sha256."""
    hasher = hashlib.sha256()
    for block in response.read_blocks():
        file.write(block)
        hasher.update(block)
    return hasher.hexdigest()


@contextmanager
def _translate_errors(url: str) -> Iterator[None]:
    """Turn what urllib or the disk raise inside the block into UnreachableError."""
    try:
        yield
    except UnreachableError as error:
        raise UnreachableError(f"{error}: {_ADVICE}") from error
    except urllib.error.HTTPError as error:
        raise UnreachableError(f"{url} answers {error.code} {error.reason}: {_ADVICE}") from error
    except OSError as error:  # URLError is one, and so is a full disk
        reason = getattr(error, "reason", error)
        raise UnreachableError(f"{url} cannot be downloaded ({reason}): {_ADVICE}") from error


def _find_in_folder(name: str) -> Path | None:
    """Return the file of this name in the folder DETREG_WEIGHTS, where there is one."""
    folder = os.environ.get("DETREG_WEIGHTS")
    if not folder:
        return None
    path = Path(folder) / name
    return path if path.is_file() else None


def _suggest_alternatives(template: Template, base_model: str, asked_by: str) -> str:
    """Return what the parameter `asked_by` can be instead where nobody published COCO weights."""
    has_imagenet = bool(template.base_models[base_model].imagenet)
    param = get_params(template.params)[asked_by]
    choices = [
        choice
        for choice in param.choices or ()
        if choice not in ("coco", "mscoco") and (choice != "imagenet" or has_imagenet)
    ]
    advice = f"take {asked_by}={'|'.join(choices)}" if choices else f"leave {asked_by} out"

    published = [name for name, entry in template.base_models.items() if entry.coco_weights]
    if published:
        advice += f", or base_model={'|'.join(published)}"
    return advice


def _check_not_of_another(path: Path, template: Template, base_model: str) -> None:
    """Raise DataError where the file belongs to another template's base model of that name."""
    own = template.base_models[base_model].coco_weights
    others: dict[str, str] = {}
    for other in TEMPLATES.values():
        namesake = other.base_models.get(base_model)
        if namesake and namesake.coco_weights and namesake.coco_weights != own:
            others[other.name] = namesake.coco_weights.sha256
    if not others:
        return

    digest = compute_sha256(path)
    for name, sha256 in others.items():
        if digest.startswith(sha256):
            raise DataError(
                f"{path} holds the weights of {name}, not of {template.name}: "
                f"name it {name}_{base_model}_coco.pth"
            )


def _download_from_mlflow(uri: str) -> Path:
    """Return a checkpoint of an artifact URI.

    That is the file itself; for a run or a registered model, the best checkpoint of its run.
    """
    # The caller reads the file after this function has ended.
    folder = Path(tempfile.mkdtemp(prefix="detreg-weights-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        if uri.endswith(".pth"):
            return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
        run_id = _find_run_id(uri)
    except (MlflowException, OSError) as error:
        raise NotFoundError(f"load_from={uri} cannot be read: {summarize_error(error)}") from error

    stored = runs.find_checkpoints(run_id)
    if stored is None:
        raise NotFoundError(f"load_from={uri}: run {run_id} has no checkpoint")
    return runs.download_artifact(run_id, stored.best, folder)


def _find_run_id(uri: str) -> str:
    if uri.startswith("models:/"):
        return str(mlflow.models.get_model_info(uri).run_id)
    return uri.removeprefix("runs:/").split("/")[0]
