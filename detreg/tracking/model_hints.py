"""What to know of a registered model before a training adds a version to it."""

import json

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from detreg.data.dataset import Dataset
from detreg.errors import NotFoundError, make_printable, shorten
from detreg.mlflow_errors import translate_mlflow_errors
from detreg.options import RunOptions
from detreg.tracking.registered_model import CHAMPION, DIGEST, EID, has_model
from detreg.tracking.runs import get_run

_MAX_CLASSES_NAMED = 5


def list_hints(options: RunOptions, template: str, dataset: Dataset) -> list[str]:
    """Return at most one line on the model to which training a template adds a version.

    Raises UnreachableError.
    """
    name = options.choose_model_name(template, dataset.name)
    try:
        with translate_mlflow_errors(f"the model {name} is gone"):
            if has_model(name):
                hint = _describe_other_data(name, dataset)
            else:
                hint = _describe_former_name(options, name, template)
    except NotFoundError:  # somebody has deleted the model or the version meanwhile
        return []
    return [] if hint is None else [make_printable(hint)]


def _describe_former_name(options: RunOptions, name: str, template: str) -> str | None:
    """Return how to stay with the name that detreg 0.1 chose, which was the template's."""
    if options.registered_model_name is not None or not has_model(template):
        return None
    return (
        f"The model will be registered as {name}: to add a version to {template}, where it would "
        f"have been before, set registered_model_name={template}"
    )


def _describe_other_data(name: str, dataset: Dataset) -> str | None:
    """Return what the champion was trained on, where that is not this dataset."""
    champion = _find_champion(name)
    if champion is None or champion.tags.get(DIGEST, dataset.digest) == dataset.digest:
        return None

    place = f"{name} has a champion, version {champion.version}"
    advice = "registered_model_name=NAME gives this model a name of its own"
    classes = _find_classes(champion)
    if classes is not None and set(classes) != set(dataset.classes):
        named = ", ".join(shorten(text, 40) for text in classes[:_MAX_CLASSES_NAMED])
        more = ", ..." if len(classes) > _MAX_CLASSES_NAMED else ""
        return (
            f"{place}, with other classes ({named}{more}): the new version cannot be compared with "
            f"it, and stays challenger; {advice}"
        )
    return (
        f"{place}, that was trained on other data (digest {champion.tags[DIGEST]}): both will be "
        f"compared on the val split of this data; {advice}"
    )


def _find_champion(name: str) -> ModelVersion | None:
    client = MlflowClient()
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else client.get_model_version(name, str(version))


def _find_classes(version: ModelVersion) -> list[str] | None:
    """Return the classes of the dataset that a version's run has as input; None if unknown."""
    try:
        run = get_run(version.tags.get(EID, ""))
    except NotFoundError:
        return None
    datasets = [] if run.inputs is None else run.inputs.dataset_inputs
    for logged in datasets:
        if logged.dataset.digest != version.tags[DIGEST]:
            continue
        try:
            schema = json.loads(logged.dataset.schema or "{}")
            return [str(name) for name in schema["classes"]]
        except (KeyError, TypeError, ValueError):  # of another tool
            return None
    return None
