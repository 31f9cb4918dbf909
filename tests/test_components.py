"""The parts that MMEngine builds by name: sampler, seeds, random sizes, plain epochs, scores."""

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from detreg.training import components
from detreg.training.components import CocoScores, EpochSampler, PlainEpochsHook, RandomBatchResize, epoch_seed, seed_worker


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    """The images of an epoch."""
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize(("images", "minimum"), [(10, 1), (10, 10), (10, 11), (7, 40), (1, 5), (7, 42)])
def test_an_epoch_has_every_image_equally_often(images: int, minimum: int) -> None:
    sampler = EpochSampler(range(images), minimum, seed=3)
    drawn = order(sampler, 0)
    assert len(drawn) == len(sampler) == max(images, minimum)
    times = Counter(drawn)
    assert set(times) == set(range(images))
    assert set(times.values()) <= {len(drawn) // images, -(-len(drawn) // images)}


def test_the_order_is_fresh_every_epoch_and_the_same_for_a_seed() -> None:
    first, second = (EpochSampler(range(50), 120, seed=3) for _ in range(2))
    assert order(first, 0) != order(first, 1)
    assert order(first, 4) == order(second, 4)
    assert order(EpochSampler(range(50), 120, seed=4), 0) != order(first, 0)


def test_a_repetition_has_an_order_of_its_own() -> None:
    drawn = order(EpochSampler(range(50), 100, seed=0), 0)
    assert drawn[:50] != drawn[50:]
    assert sorted(drawn[:50]) == sorted(drawn[50:]) == list(range(50))


@pytest.mark.parametrize("total", [12, 13])
def test_processes_share_an_epoch_without_overlap(monkeypatch: pytest.MonkeyPatch, total: int) -> None:
    parts = []
    for rank in range(2):
        monkeypatch.setattr(components, "get_dist_info", lambda rank=rank: (rank, 2))
        sampler = EpochSampler(range(total), 1, seed=0)
        parts.append(order(sampler, 0))
        assert len(parts[-1]) == len(sampler)
    assert sorted(parts[0] + parts[1]) == list(range(total))


def test_the_seed_of_an_epoch_differs_by_seed_and_epoch() -> None:
    seeds = {epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert epoch_seed(2**31 - 1, 199) == epoch_seed(2**31 - 1, 199)


def test_a_worker_takes_pythons_and_numpys_seed_from_torchs() -> None:
    def drawn(seed: int) -> tuple[float, float]:
        torch.manual_seed(seed)
        seed_worker(0)
        return random.random(), float(np.random.rand())

    first = drawn(epoch_seed(0, 0))
    assert drawn(epoch_seed(0, 0)) == first
    second = drawn(epoch_seed(0, 1))
    assert second[0] != first[0]
    assert second[1] != first[1]


def batch(width: int, height: int) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Two pictures with a box each; the second has a region to ignore as well."""
    samples = [DetDataSample(gt_instances=InstanceData(bboxes=torch.tensor([[0.0, 0.0, width / 2, height]]))) for _ in range(2)]
    samples[1].ignored_instances = InstanceData(bboxes=torch.tensor([[width / 2, 0.0, width, height / 2]]))
    return torch.rand(2, 3, height, width), samples


def test_a_random_size_is_on_the_grid_between_the_two() -> None:
    resize = RandomBatchResize(lower=(96,), upper=(192,), image_size=(128,))
    random.seed(0)
    seen = {tuple(resize(*batch(128, 128))[0].shape[-2:]) for _ in range(60)}
    assert seen == {(side, side) for side in (96, 128, 160, 192)}


def test_width_and_height_each_stay_between_their_limits() -> None:
    resize = RandomBatchResize(lower=(96, 64), upper=(192, 64), image_size=(128, 64))
    random.seed(0)
    seen = {tuple(resize(*batch(128, 64))[0].shape[-2:]) for _ in range(100)}
    assert {width for _, width in seen} == {96, 128, 160, 192}
    assert {height for height, _ in seen} == {64}


def test_boxes_are_resized_with_their_picture() -> None:
    resize = RandomBatchResize(lower=(64,), upper=(64,), image_size=(128,))
    inputs, samples = resize(*batch(192, 128))
    assert inputs.shape == (2, 3, 64, 96)
    for sample in samples:
        assert sample.gt_instances.bboxes.tolist() == [[0.0, 0.0, 48.0, 64.0]]
        assert sample.img_shape == sample.batch_input_shape == sample.pad_shape == (64, 96)
    assert samples[1].ignored_instances.bboxes.tolist() == [[48.0, 0.0, 96.0, 32.0]]


def test_the_size_that_is_there_already_changes_nothing() -> None:
    inputs, samples = batch(128, 128)
    same, _ = RandomBatchResize(lower=(128,), upper=(128,), image_size=(128,))(inputs, samples)
    assert same is inputs
    assert samples[0].gt_instances.bboxes.tolist() == [[0.0, 0.0, 64.0, 128.0]]


def test_random_sizes_are_the_same_for_a_seed_of_python_whatever_torch_draws() -> None:
    def sizes() -> list[tuple[int, ...]]:
        resize = RandomBatchResize(lower=(64,), upper=(256,), image_size=(128,))
        random.seed(5)
        return [tuple(resize(*batch(128, 96))[0].shape) for _ in range(8)]

    first = sizes()
    assert sizes() == first
    assert len(set(first)) > 1


def runner(epoch: int) -> Any:
    """As much of MMEngine's runner as the hook looks at."""
    head = SimpleNamespace(use_l1=None)
    dataset = SimpleNamespace(_skip_type_keys="unset")
    return SimpleNamespace(
        epoch=epoch, max_epochs=10, train_dataloader=SimpleNamespace(dataset=dataset), model=SimpleNamespace(bbox_head=head)
    )


def test_plain_epochs_switch_both_ways() -> None:
    hook = PlainEpochsHook(epochs=3, skip=["Mosaic", "MixUp"])
    seen = []
    for epoch in (0, 6, 7, 9, 2):
        training = runner(epoch)
        hook.before_train_epoch(training)
        seen.append((training.train_dataloader.dataset._skip_type_keys, training.model.bbox_head.use_l1))
    mixed, plain = (None, False), (["Mosaic", "MixUp"], True)
    assert seen == [mixed, mixed, plain, plain, mixed]


def test_no_plain_epochs_at_all() -> None:
    training = runner(9)
    PlainEpochsHook(epochs=0, skip=["Mosaic"]).before_train_epoch(training)
    assert training.train_dataloader.dataset._skip_type_keys is None


def predicted(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, Any]:
    """A sample as MMDetection hands it to an evaluator."""
    instances = {"bboxes": torch.tensor(boxes), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}
    return {"img_id": 1, "ori_shape": (40, 60), "pred_instances": instances}


def test_detections_are_clipped_and_best_first() -> None:
    sample = predicted([[0, 0, 10, 10], [-5, -5, 99, 99]], [0.2, 0.9], [0, 1])
    found = components.detections(sample, ("boat", "house"))
    assert found.boxes.tolist() == [[0, 0, 60, 40], [0, 0, 10, 10]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.2])
    assert found.labels.tolist() == [1, 0]
    assert found.class_names == ("boat", "house")


@pytest.mark.parametrize(("label", "expected"), [(1, 1.0), (0, 0.0)])
def test_scores_compare_with_the_annotations(tmp_path: Path, label: int, expected: float) -> None:
    file = tmp_path / "val.json"
    content = {
        "images": [{"id": 1, "file_name": "/x.jpg", "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [5, 5, 20, 30], "area": 600, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "boat"}, {"id": 2, "name": "house"}],
    }
    file.write_text(json.dumps(content))
    metric = CocoScores(str(file))
    metric.dataset_meta = {"classes": ("boat", "house")}
    metric.process(None, [predicted([[5, 5, 25, 35]], [0.8], [label])])
    scores = metric.evaluate(1)
    assert scores["val/mAP"] == pytest.approx(expected)
