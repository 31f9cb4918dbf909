"""The mask branch: what it learns from, what it predicts, and in which parts of a step it runs."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from compose_helpers import build_random, compose_model
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from test_train_loop import freeze_statistics
from torch import Tensor

from detreg.templates import TEMPLATES
from detreg.templates._masks import add_to_one_stage
from detreg.training.divided_step import compute_divided_gradients, compute_gradients
from detreg.training.masks import MaskHead
from detreg.training.precision import use_precision
from detreg.training.trial_steps import BOXES, draw_batch

pytestmark = pytest.mark.usefixtures("mmdet_scope")
CHANNELS = 8


@pytest.fixture
def branch() -> Any:
    """Return a mask branch of three classes on maps of eight channels."""
    roi_head = add_to_one_stage({"neck": {"out_channels": CHANNELS}}, 3)["roi_head"]
    roi_head["mask_head"]["conv_out_channels"] = CHANNELS
    torch.manual_seed(0)
    built = MODELS.build(ConfigDict(roi_head))
    built.init_weights()
    return built


def make_maps(images: int = 2) -> tuple[Tensor, ...]:
    """Return a pyramid's maps of images of 64 px, from a stride of 8 to one of 64."""
    torch.manual_seed(1)
    return tuple(torch.randn(images, CHANNELS, side, side) for side in (8, 4, 2, 1))


def draw_samples(*have_masks: int) -> list[Any]:
    """Return an image's objects for each number: so many first ones have a mask."""
    samples = draw_batch(len(have_masks), 64, 64, with_masks=True)["data_samples"]
    for sample, count in zip(samples, have_masks, strict=True):
        masks = sample.gt_instances.masks
        outlines = masks.outlines[:count] + (None,) * (BOXES - count)
        sample.gt_instances.masks = replace(masks, outlines=outlines)
    return samples


def find_nothing(images: int = 2) -> list[InstanceData]:
    """Return the detections of images without any."""
    empty = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return [copy.copy(empty) for _ in range(images)]


def test_objects_without_a_mask_train_no_masks(branch: Any) -> None:
    """The loss is that of the other objects alone."""
    samples = draw_samples(BOXES, 3)
    loss = branch.loss(make_maps(), find_nothing(), samples)["loss_mask"]

    samples = draw_samples(BOXES, BOXES)
    samples[1].gt_instances = samples[1].gt_instances[:3]
    expected = branch.loss(make_maps(), find_nothing(), samples)["loss_mask"]
    torch.testing.assert_close(loss, expected)
    assert loss > 0


def test_without_any_mask_the_loss_is_zero_and_has_gradients(branch: Any) -> None:
    """So that processes which train together do not wait for each other."""
    loss = branch.loss(make_maps(), find_nothing(), draw_samples(0, 0))["loss_mask"]
    assert loss == 0
    loss.backward()
    for parameter in branch.mask_head.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_detections_near_an_object_learn_its_mask(branch: Any) -> None:
    """As many as the branch learns from, and none that lies elsewhere."""
    samples = draw_samples(BOXES, BOXES)
    own = samples[0].gt_instances.bboxes
    close = own + torch.tensor([0.1, 0.0, 0.1, 0.0])
    detections = find_nothing()
    boxes = torch.cat([close, close, close, own.new_tensor([[0.0, 0.0, 1.0, 1.0]])])
    detections[0] = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))

    learned: list[int] = []
    branch.mask_head.register_forward_hook(lambda _, inputs, __: learned.append(len(inputs[0])))
    branch.loss(make_maps(), detections, samples)
    # 16 of the 32 boxes of one image, and the objects of the other.
    assert learned == [16 + BOXES]


def test_the_head_learns_the_masks_of_a_few_steps(branch: Any) -> None:
    """It begins undecided, however few classes there are, and is on its way at once."""
    optimizer = torch.optim.Adam(branch.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = branch.loss(make_maps(), find_nothing(), draw_samples(BOXES, BOXES))["loss_mask"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert abs(losses[0] - 0.693) < 0.05
    assert losses[-1] < 0.6


def test_a_detection_has_the_mask_of_its_class(branch: Any) -> None:
    boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [8.0, 8.0, 24.0, 40.0]])
    detections = find_nothing()
    detections[1] = InstanceData(bboxes=boxes.clone(), labels=torch.tensor([2, 0]))
    metainfo = [{"scale_factor": (2.0, 0.5)}] * 2
    with torch.no_grad():
        nothing, found = branch.predict_mask(make_maps(), metainfo, detections, rescale=True)
        rois = torch.cat([torch.ones(2, 1), boxes], dim=1)
        logits = branch._mask_forward(make_maps(), rois)["mask_preds"]

    assert nothing.masks.shape == (0, 28, 28)
    torch.testing.assert_close(found.masks, logits[[0, 1], [2, 0]].sigmoid())
    assert found.bboxes.tolist() == [[0.0, 0.0, 16.0, 64.0], [4.0, 16.0, 12.0, 80.0]]


@pytest.mark.parametrize("classes", [1, 80])
def test_masks_begin_undecided(classes: int) -> None:
    head = MaskHead(num_convs=1, in_channels=64, conv_out_channels=64, num_classes=classes)
    head.init_weights()
    with torch.no_grad():
        logits = head(torch.randn(4, 64, 14, 14))
    assert 0.01 < logits.std() < 0.3


# The whole detector.


@pytest.fixture(scope="module")
def network() -> Any:
    """Return a small RetinaNet with masks, in training mode; tests work on copies."""
    template = TEMPLATES["msc10"]
    values = {"pretrained_weights": "none", "pretrain_base_data": "none", "frozen_stages": 0}
    model = compose_model(
        template, 3, base_model="mobilenetv2_100", image_size=64, masks=True, **values
    )
    built = build_random(model)
    # As published: nothing scores yet, so that rounding does not decide what is learned from.
    built.init_weights()
    return built.train()


def compute(network: Any, parts: int) -> dict[str, Tensor]:
    """Return the gradients of a step of two images, in so many parts."""
    torch.manual_seed(0)
    wrapper = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}
    optimizer = build_optim_wrapper(network, wrapper)
    batch = network.data_preprocessor(draw_batch(2, 64, 64, with_masks=True), True)
    if parts > 1:
        losses = compute_divided_gradients(network, optimizer, batch, parts)
    else:
        losses = compute_gradients(network, optimizer, batch)
    gradients = {name: value.grad for name, value in network.named_parameters()}
    assert losses["loss_mask"] > 0
    return {name: value for name, value in gradients.items() if value is not None}


def test_a_divided_step_trains_masks_as_the_whole_one(network: Any) -> None:
    network = copy.deepcopy(network)
    # Batch norms use the statistics of all images, which those of a part are not.
    freeze_statistics(network)
    whole = compute(copy.deepcopy(network), 1)
    divided = compute(network, 2)
    assert whole.keys() == divided.keys()
    assert whole["roi_head.mask_head.conv_logits.weight"].any()
    for name, value in whole.items():
        difference = (value - divided[name]).norm()
        assert difference <= 1e-4 * value.norm() + 1e-7, name


def test_masks_are_float32_in_bf16(network: Any) -> None:
    """The neck's maps are, since the mask branch reads them; dense layers compute in bf16."""
    network = copy.deepcopy(network)
    use_precision(network, "bf16")
    types: dict[str, torch.dtype] = {}

    def watch(name: str, module: Any) -> None:
        def note(_: Any, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            types[name] = first.dtype

        module.register_forward_hook(note)

    watch("backbone", network.backbone)
    watch("neck", network.neck)
    watch("mask_head", network.roi_head.mask_head)
    compute(network, 1)
    assert types == {
        "backbone": torch.bfloat16,
        "neck": torch.float32,
        "mask_head": torch.float32,
    }
