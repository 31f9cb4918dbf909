"""The parts that MMEngine builds by name: sampler, seeds, random sizes, plain epochs, scores."""

import copy
import json
import pickle
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL
from mmengine.runner import Runner

from detreg.data.dataset import load_dataset
from detreg.pipeline import parse_settings
from detreg.templates import find_template
from detreg.training import seeding
from detreg.training.batch_norms import normalize_single_values
from detreg.training.compose import compose
from detreg.training.metrics import CocoScores, convert_predictions
from detreg.training.plain_epochs import PlainEpochsHook
from detreg.training.seeding import EpochSampler, SeededIndex, SeedImage, derive_seeds
from detreg.training.transforms import PadToCanvas, RandomMixedSize, RandomSize


def order(sampler: EpochSampler, epoch: int) -> list[int]:
    """The images of an epoch."""
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize(
    ("images", "minimum"), [(10, 1), (10, 10), (10, 11), (7, 40), (1, 5), (7, 42)]
)
def test_an_epoch_has_every_image_equally_often(images: int, minimum: int) -> None:
    sampler = EpochSampler(range(images), minimum, batch_size=4, seed=3)
    drawn = order(sampler, 0)
    assert len(drawn) == len(sampler) == max(images, minimum)
    times = Counter(drawn)
    assert set(times) == set(range(images))
    assert set(times.values()) <= {len(drawn) // images, -(-len(drawn) // images)}


def test_the_order_is_fresh_every_epoch_and_the_same_for_a_seed() -> None:
    first, second = (EpochSampler(range(50), 120, 8, seed=3) for _ in range(2))
    assert order(first, 0) != order(first, 1)
    assert order(first, 4) == order(second, 4)
    assert order(EpochSampler(range(50), 120, 8, seed=4), 0) != order(first, 0)


def test_a_repetition_has_an_order_of_its_own() -> None:
    drawn = order(EpochSampler(range(50), 100, 8, seed=0), 0)
    assert drawn[:50] != drawn[50:]
    assert sorted(drawn[:50]) == sorted(drawn[50:]) == list(range(50))


@pytest.mark.parametrize(("images", "filler"), [(12, 0), (13, 2), (14, 1), (15, 0), (18, 0)])
def test_processes_share_out_each_step(
    monkeypatch: pytest.MonkeyPatch, images: int, filler: int
) -> None:
    """Of steps of six images; three processes each need one in the last step."""
    alone = order(EpochSampler(range(images), 1, 6, seed=0), 0)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(seeding, "get_dist_info", lambda rank=rank: (rank, 3))
        sampler = EpochSampler(range(images), 1, 6, seed=0)
        parts.append(list(torch.utils.data.BatchSampler(sampler, 2, drop_last=False)))
        sampler.set_epoch(0)
        assert len(parts[-1]) == -(-len(sampler) // 2) == -(-images // 6)
    steps = [[draw for batch in batches for draw in batch] for batches in zip(*parts, strict=True)]
    together = [sorted((int(draw), draw.seed) for draw in step) for step in steps]
    for number, step in enumerate(together[: images // 6]):
        assert step == sorted((int(draw), draw.seed) for draw in alone[6 * number : 6 * number + 6])
    assert sum(map(len, together)) == images + filler
    assert {(int(draw), draw.seed) for draw in alone} <= {
        entry for step in together for entry in step
    }


def test_seeds_differ_by_what_they_are_for() -> None:
    seeds = {derive_seeds(seed, epoch)[0] for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derive_seeds(2**31 - 1, 199, count=3) == derive_seeds(2**31 - 1, 199, count=3)
    assert len(set(derive_seeds(0, 0, count=300))) == 300


def test_a_draw_keeps_its_seed_on_the_way_to_a_loaders_process() -> None:
    draw = SeededIndex(7, 5)
    for copied in (copy.deepcopy(draw), pickle.loads(pickle.dumps(draw))):
        assert copied == 7 and type(copied) is SeededIndex and copied.seed == 5


def test_a_drawn_picture_is_seeded_and_one_that_is_mixed_in_is_not() -> None:
    def drawn(number: int) -> tuple[float, float, float]:
        SeedImage()({"sample_idx": number})
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    first = drawn(SeededIndex(7, 5))
    assert drawn(7) != first
    assert drawn(SeededIndex(8, 5)) == first
    assert all(a != b for a, b in zip(first, drawn(SeededIndex(7, 6)), strict=True))


@pytest.mark.parametrize(
    ("template", "base_model"), [("yolox", "yolox_s"), ("ssd", "ssdlite_mobilenetv2")]
)
def test_pictures_do_not_depend_on_the_processes_that_load_them(
    tiny: Path, template: str, base_model: str
) -> None:
    """yolox_s mixes by Mosaic and MixUp, with random sizes; SSD cuts and distorts."""
    from mmdet.utils import register_all_modules

    register_all_modules()
    sizes = {"random_resize_upper": 96} if template == "yolox" else {}
    values = SMALL[template] | sizes | {"base_model": base_model}
    loaded = []
    for workers, batch_size in ((0, 4), (3, 1)):
        chosen = find_template(template)
        params, options = parse_settings(
            chosen, values | {"num_workers": workers, "batch_size": batch_size}
        )
        config = compose(chosen, chosen.resolve(params), load_dataset(tiny), options)
        batches = Runner.build_dataloader(config.train_dataloader, seed=0)
        batches.sampler.set_epoch(1)
        random.seed(workers)
        np.random.seed(workers)
        loaded.append(
            [
                (image, sample.gt_instances.bboxes.tensor)
                for batch in batches
                for image, sample in zip(*batch.values(), strict=True)
            ]
        )
    assert len(loaded[0]) == 20  # a third of the thirty is for scoring
    for (image, boxes), (other, other_boxes) in zip(*loaded, strict=True):
        assert torch.equal(image, other) and torch.equal(boxes, other_boxes)


def picture(width: int, height: int) -> dict[str, Any]:
    """A picture with a box over its left half, as MMDetection's transforms pass it on."""
    from mmdet.structures.bbox import (
        HorizontalBoxes,  # after detreg.training, which brings the operators
    )

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = HorizontalBoxes(torch.tensor([[0.0, 0.0, width / 2, height]]))
    return {
        "img": image,
        "img_shape": (height, width),
        "ori_shape": (height, width),
        "gt_bboxes": boxes,
    }


def sized(
    lower: tuple[int, ...], upper: tuple[int, ...], cls: type[RandomSize] = RandomSize, **sizes: Any
) -> RandomSize:
    """The transform, of pictures that keep their ratio."""
    usual = {
        "image_size": lower,
        "keep_aspect_ratio": len(lower) == 1,
        "max_aspect_ratio": 1.5,
        "pad_value": (0, 0, 0),
    }
    return cls(lower, upper, usual | sizes)


def test_a_random_size_is_on_the_grid_between_the_two() -> None:
    resize = sized((96,), (192,))
    random.seed(0)
    seen = Counter(resize(picture(250, 200))["img"].shape[:2] for _ in range(200))
    assert set(seen) == {(96, 120), (128, 160), (160, 200), (192, 240)}
    assert min(seen.values()) > 30


def test_width_and_height_each_stay_between_their_limits() -> None:
    resize = sized((96, 64), (192, 64))
    random.seed(0)
    seen = {resize(picture(250, 200))["img"].shape[:2] for _ in range(100)}
    assert seen == {(64, 96), (64, 128), (64, 160), (64, 192)}


def test_the_longer_side_is_limited_at_every_size() -> None:
    resize = sized((96,), (192,))
    random.seed(0)
    for _ in range(50):
        height, width = resize(picture(1000, 200))["img"].shape[:2]
        assert width in (144, 192, 240, 288) and height == round(width / 5)


@pytest.mark.parametrize(
    ("lower", "upper", "size", "kept"),
    [
        ((96,), (192,), (80, 90), (80, 90)),
        ((96, 96), (192, 192), (95, 95), (95, 95)),
        ((96,), (192,), (300, 80), (120, 32)),  # the longer side is at most 1.5 times the smaller
        ((96, 96), (192, 192), (95, 20), (30, 6)),
    ],
)
def test_an_image_smaller_than_the_lower_limit_keeps_its_size_within_max_aspect_ratio(
    lower: tuple[int, ...], upper: tuple[int, ...], size: tuple[int, int], kept: tuple[int, int]
) -> None:
    result = sized(lower, upper)(picture(*size))
    assert result["img"].shape[:2] == kept[::-1]
    assert result["gt_bboxes"].tensor[0].tolist() == pytest.approx([0.0, 0.0, kept[0] / 2, kept[1]])


def test_a_part_of_a_large_image_is_not_small() -> None:
    assert sized((96,), (96,))({**picture(40, 40), "ori_shape": (300, 300)})["img"].shape[:2] == (
        96,
        96,
    )


@pytest.mark.parametrize(("keep", "size"), [(True, (120, 60)), (False, (80, 80))])
def test_what_was_made_of_a_small_image_has_the_size_of_the_image(
    keep: bool, size: tuple[int, int]
) -> None:
    """SSD expands and crops an image before it is resized."""
    for made in (picture(320, 160), picture(20, 10)):
        resize = sized((96,), (192,), keep_aspect_ratio=keep)
        assert resize({**made, "ori_shape": (80, 80)})["img"].shape[1::-1] == size


def test_a_small_image_is_enlarged_to_what_the_network_can_take() -> None:
    assert sized((96,), (192,), smallest_input=64)(picture(40, 32))["img"].shape[1::-1] == (80, 64)


def test_padding_has_three_levels_and_the_canvas_that_is_served() -> None:
    sizes = {
        "image_size": (64,),
        "keep_aspect_ratio": True,
        "max_aspect_ratio": 2.0,
        "smallest_input": 70,
    }
    sizes |= {"pad_value": (1, 2, 3), "pad_divisor": 16}
    result = PadToCanvas(sizes, fixed=True)(picture(100, 64))
    assert result["img"].shape[:2] == result["img_shape"] == result["pad_shape"] == (80, 112)
    assert (result["img"][64:] == (3, 2, 1)).all() and (
        result["img"][:, 100:] == (3, 2, 1)
    ).all()  # blue first
    fixed = sizes | {"max_aspect_ratio": 1.0, "image_size": (96,)}
    assert PadToCanvas(fixed, fixed=True)(picture(90, 64))["img"].shape[:2] == (96, 96)
    assert PadToCanvas(fixed, fixed=False)(picture(90, 64))["img"].shape[:2] == (80, 96)


def test_one_side_over_its_limit_is_not_small() -> None:
    assert sized((96, 96), (96, 96))(picture(300, 80))["img"].shape[:2] == (96, 96)


def test_boxes_are_resized_with_their_picture() -> None:
    result = sized((64,), (64,))(picture(160, 128))
    assert result["img"].shape[:2] == (64, 80)
    assert result["gt_bboxes"].tensor.tolist() == [[0.0, 0.0, 40.0, 64.0]]


def test_a_mixed_canvas_is_scaled_as_a_whole_small_or_not() -> None:
    resize = sized((64,), (64,), RandomMixedSize, image_size=(128,))
    assert resize(picture(192, 192))["img"].shape[:2] == (96, 96)
    assert resize(picture(32, 32))["img"].shape[:2] == (16, 16)


def test_random_sizes_are_the_same_for_a_seed_of_python_whatever_torch_draws() -> None:
    drawn = []
    for torch_seed in range(2):
        resize = sized((64,), (256,))
        torch.manual_seed(torch_seed)
        np.random.seed(torch_seed)
        random.seed(5)
        drawn.append([resize(picture(300, 300))["img"].shape[0] for _ in range(10)])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 2


def runner(epoch: int) -> Any:
    """As much of MMEngine's runner as the hook looks at."""
    head = SimpleNamespace(use_l1=None)
    dataset = SimpleNamespace(_skip_type_keys="unset")
    return SimpleNamespace(
        epoch=epoch,
        max_epochs=10,
        train_dataloader=SimpleNamespace(dataset=dataset),
        model=SimpleNamespace(bbox_head=head),
    )


def test_plain_epochs_switch_both_ways() -> None:
    hook = PlainEpochsHook(epochs=3, skip=["Mosaic", "MixUp"])
    seen = []
    for epoch in (0, 6, 7, 9, 2):
        training = runner(epoch)
        hook.before_train_epoch(training)
        seen.append(
            (training.train_dataloader.dataset._skip_type_keys, training.model.bbox_head.use_l1)
        )
    mixed, plain = (None, False), (["Mosaic", "MixUp"], True)
    assert seen == [mixed, mixed, plain, plain, mixed]


def test_no_plain_epochs_at_all() -> None:
    training = runner(9)
    PlainEpochsHook(epochs=0, skip=["Mosaic"]).before_train_epoch(training)
    assert training.train_dataloader.dataset._skip_type_keys is None


def predicted(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, Any]:
    """A sample as MMDetection hands it to an evaluator."""
    instances = {
        "bboxes": torch.tensor(boxes),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels),
    }
    return {"img_id": 1, "ori_shape": (40, 60), "pred_instances": instances}


def test_detections_are_clipped_and_best_first() -> None:
    sample = predicted([[0, 0, 10, 10], [-5, -5, 99, 99]], [0.2, 0.9], [0, 1])
    found = convert_predictions(sample, ("boat", "house"))
    assert found.boxes.tolist() == [[0, 0, 60, 40], [0, 0, 10, 10]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.2])
    assert found.labels.tolist() == [1, 0]
    assert found.class_names == ("boat", "house")


@pytest.mark.parametrize(("label", "expected"), [(1, 1.0), (0, 0.0)])
def test_scores_compare_with_the_annotations(tmp_path: Path, label: int, expected: float) -> None:
    file = tmp_path / "val.json"
    content = {
        "images": [{"id": 1, "file_name": "/x.jpg", "width": 60, "height": 40}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2,
                "bbox": [5, 5, 20, 30],
                "area": 600,
                "iscrowd": 0,
            }
        ],
        "categories": [{"id": 1, "name": "boat"}, {"id": 2, "name": "house"}],
    }
    file.write_text(json.dumps(content))
    metric = CocoScores(str(file))
    metric.dataset_meta = {"classes": ("boat", "house")}
    metric.process(None, [predicted([[5, 5, 25, 35]], [0.8], [label])])
    scores = metric.evaluate(1)
    assert scores["val/mAP"] == pytest.approx(expected)


def test_a_single_value_is_normed_by_the_statistics_so_far() -> None:
    norm = torch.nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(torch.ones(1, 3, 1, 1))
    normalize_single_values(norm)
    norm.running_mean.fill_(0.5)
    before = norm.running_mean.clone()
    torch.testing.assert_close(
        norm(torch.ones(1, 3, 1, 1)), torch.full((1, 3, 1, 1), 0.5), rtol=1e-4, atol=0
    )
    assert norm.training and torch.equal(norm.running_mean, before)
    usual = norm(torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    torch.testing.assert_close(usual.mean(), torch.tensor(0.0))
    assert not torch.equal(norm.running_mean, before)
    assert not norm.eval()(torch.ones(1, 3, 1, 1)).isnan().any() and not norm.training
