"""What is done with a model that is there: evaluate it, predict with it, export it again."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detreg.data.dataset import load_dataset
from detreg.defaults import MAX_DETECTIONS, SCORE_THRESHOLD
from detreg.errors import DataError, NotFoundError, UsageError
from detreg.files import IMAGE_SUFFIXES
from detreg.params import build
from detreg.templates.template import Template
from detreg.tracking import runs


def evaluate(model: str, data: str, split: str = "val") -> dict[str, Any]:
    """Scores a model on a split of a dataset, as an MLflow run with the report. Returns what `--json` prints.

    Raises UsageError where the dataset has no such split, and what loading the model or the data raises.
    """
    from detreg.evaluation.ground_truth import GroundTruth
    from detreg.evaluation.predictions import predict_split
    from detreg.evaluation.report import SplitEvaluation, write_report
    from detreg.evaluation.scores import score
    from detreg.inference.detector import Detector

    dataset = load_dataset(data)
    if split not in dataset.splits:
        raise UsageError(f"{data} has no split {split}: there are {', '.join(dataset.splits)}")
    detector = Detector.load(model)
    truth = GroundTruth.load(dataset.splits[split].annotations)
    predictions = predict_split(detector, truth)
    scores = score(truth, predictions)
    tags = {
        runs.TEMPLATE: detector.card.template,
        runs.DIGEST: dataset.digest,
        "detreg.evaluated_model": model,
    }
    with runs.start_run(None, tags) as active:
        active.log_params({"model": model, "data": data, "split": split})
        active.log_dataset(dataset)
        active.log_metrics(
            scores.as_metrics() | scores.as_metrics(split) | scores.as_class_metrics(split)
        )
        folder = active.folder / "report"
        facts = {
            "model": model,
            "model's run (eid)": str(detector.card.eid),
            "trained on digest": str(detector.card.dataset_digest),
        }
        write_report(
            folder,
            f"{model} on {dataset.name}",
            SplitEvaluation(split, truth, predictions, scores),
            facts=facts,
        )
        active.log_file(folder, "report")
    return {
        "run_id": active.id,
        "model": model,
        "split": split,
        "dataset_digest": dataset.digest,
        **scores.as_metrics(),
    }


def predict(
    model: str,
    pictures: Sequence[str],
    out: str,
    score_threshold: float | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> Path:
    """Writes `predictions.json` and each picture with its boxes into `out`; returns the JSON's path.

    `pictures` are files and folders of them. One row per detection: image_id, file_name, category_id, category_name, bbox as x, y,
    width, height in pixels, score. Raises NotFoundError where there is no picture.
    """
    from PIL import Image

    from detreg.inference.detector import Detector
    from detreg.inference.images import read_image
    from detreg.report.drawing import draw_detections

    files = picture_files(pictures)
    detector = Detector.load(model)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, file in enumerate(files, start=1):
        image = read_image(file)
        found = detector(image, score_threshold, max_detections)
        rows += [{"file_name": str(file), **row} for row in found.to_coco(number)]
        Image.fromarray(draw_detections(image, found)).save(
            folder / f"{number:04d}_{file.stem}.jpg", quality=92
        )
    path = folder / "predictions.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


def picture_files(paths: Sequence[str]) -> list[Path]:
    """The pictures among files and folders, folders sorted by name. Raises NotFoundError where there is none."""
    files: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            files += sorted(
                file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES
            )
        elif path.is_file():
            files.append(path)
        else:
            raise NotFoundError(f"{name} is neither a picture nor a folder")
    if not files:
        raise NotFoundError(
            f"no picture in {', '.join(paths)}: looked for {', '.join(IMAGE_SUFFIXES)}"
        )
    return files


def export_model(model: str, out: str) -> Path:
    """Copies the ONNX file of a run or a registered model to `out`; it was checked against the trained network when it was made."""
    from detreg.inference.detector import Detector
    from detreg.inference.model_files import read_model

    Detector.load(model)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(read_model(model))
    return path


def export_checkpoint(
    template: Template, values: Mapping[str, Any], pictures: str | None, out: str
) -> str:
    """Exports a checkpoint (`load_from` among `values`) and compares the file with the network; returns the comparison in words.

    `pictures` is a folder to compare on; None takes the sample's. Raises UsageError where the checkpoint names no classes.
    """
    from detreg.evaluation.ground_truth import GroundTruth
    from detreg.evaluation.predictions import predict_split
    from detreg.export.parity import require_match
    from detreg.export.trained_model import TrainedModel
    from detreg.inference.detector import Detector
    from detreg.inference.from_template import make_card
    from detreg.training.compose import compose_network, load_published_config
    from detreg.training.initial_weights import load_named_weights
    from detreg.training.loaders import compose_scoring_loader
    from detreg.training.network import build_network, predict

    params = template.resolve(build(template.params, values))
    checkpoint = load_named_weights(template, params)
    source = next(
        f"{name}={value}" for name, value in params.sources.items() if name != "continue_from_eid"
    )
    if not checkpoint.classes:
        raise UsageError(
            f"{source} does not name its classes (meta.dataset_meta.CLASSES): a label would be a number only"
        )
    published = load_published_config(template, params)
    config = compose_network(template, params, published, len(checkpoint.classes))
    try:
        model = build_network(config, checkpoint.state_dict)
    except RuntimeError as error:
        raise DataError(
            f"{source} does not fit base_model={params.base_model}: name the one it was trained with"
        ) from error
    classes = checkpoint.classes
    with tempfile.TemporaryDirectory() as folder:
        annotations = _without_boxes(pictures, classes, Path(folder))
        truth = GroundTruth.load(annotations)
        batches = compose_scoring_loader(template, params, annotations, classes, 0)
        trained = dict(predict(model, batches, classes))

        about = make_card(
            template,
            params,
            classes,
            score_threshold=SCORE_THRESHOLD,
            dataset_digest=None,
            eid=None,
        )
        pixels = template.get_base_model(params).input
        trained_model = TrainedModel(
            model,
            template.decoder,
            pixels,
            about,
            lambda: dict(predict(model, batches, classes, limit=None)),
        )
        path = trained_model.export(Path(out))
        exported = predict_split(Detector.load(path), truth)
        return require_match(truth, exported, trained, trained_model)


def _without_boxes(pictures: str | None, classes: tuple[str, ...], folder: Path) -> Path:
    """A canonical COCO file of pictures that nobody labelled."""
    from detreg.inference.images import read_image

    if pictures is None:
        return load_dataset("sample").splits["val"].annotations
    images = []
    for number, file in enumerate(picture_files([pictures]), start=1):
        height, width = read_image(file).shape[:2]
        images.append(
            {"id": number, "file_name": str(file.resolve()), "width": width, "height": height}
        )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    path = folder / "pictures.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    return path
