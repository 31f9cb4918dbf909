"""What of a checkpoint gets into a network with other classes."""

import pytest
import torch
from torch import Tensor, nn

from detreg.errors import DataError
from detreg.templates.template import ClassLayer
from detreg.training.checkpoints import Checkpoint
from detreg.training.transfer import transfer_weights

CLASSES = ("boat", "bus", "car")
OTHER_CLASSES = ("car", "boat")


class OneStage(nn.Module):
    """A backbone, and a head of two anchors with one output for each class."""

    LAYERS = (ClassLayer(r"cls\.(weight|bias)"),)

    def __init__(self, classes: int, width: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.neck = nn.Linear(width, 2)
        self.cls = nn.Linear(2, 2 * classes)


class TwoStage(nn.Module):
    """A backbone, a classifier with a row for the background, and boxes for each class."""

    LAYERS = (
        ClassLayer(r"cls\.(weight|bias)", background=1),
        ClassLayer(r"reg\.(weight|bias)", rows=4),
    )

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.cls = nn.Linear(2, classes + 1)
        self.reg = nn.Linear(2, 4 * classes)


def copy_tensor(parameter: Tensor) -> Tensor:
    return parameter.detach().clone()


def make_checkpoint(network: nn.Module, classes: tuple[str, ...]) -> Checkpoint:
    return Checkpoint(network.state_dict(), classes)


def test_classes_keep_their_outputs_by_name() -> None:
    network, other = OneStage(3), OneStage(2)
    before = copy_tensor(network.cls.bias).view(2, 3)
    sentences = transfer_weights(
        network, make_checkpoint(other, OTHER_CLASSES), CLASSES, OneStage.LAYERS
    )

    bias = copy_tensor(network.cls.bias).view(2, 3)
    other_bias = copy_tensor(other.cls.bias).view(2, 2)
    assert torch.equal(bias[:, 0], other_bias[:, 1])
    assert torch.equal(bias[:, 1], before[:, 1])
    assert torch.equal(bias[:, 2], other_bias[:, 0])

    weight = copy_tensor(network.cls.weight).view(2, 3, 2)
    other_weight = copy_tensor(other.cls.weight).view(2, 2, 2)
    assert torch.equal(weight[:, 0], other_weight[:, 1])
    assert sentences == ["6 of 6 tensors copied; classes kept by name: boat, car"]


def test_the_background_and_the_boxes_of_every_class_are_kept_too() -> None:
    network, other = TwoStage(3), TwoStage(2)
    before_cls = copy_tensor(network.cls.bias)
    before_reg = copy_tensor(network.reg.bias)
    transfer_weights(network, make_checkpoint(other, OTHER_CLASSES), CLASSES, TwoStage.LAYERS)

    background = 3
    cls = copy_tensor(network.cls.bias)
    assert torch.equal(cls[[0, 2, background]], copy_tensor(other.cls.bias)[[1, 0, 2]])
    assert cls[1] == before_cls[1]

    boxes = copy_tensor(network.reg.weight).view(3, 4, 2)
    other_boxes = copy_tensor(other.reg.weight).view(2, 4, 2)
    assert torch.equal(boxes[0], other_boxes[1])
    assert torch.equal(boxes[2], other_boxes[0])
    assert torch.equal(copy_tensor(network.reg.bias)[4:8], before_reg[4:8])


def test_one_regressor_for_all_classes_does_not_become_that_of_a_class() -> None:
    network, other = TwoStage(3), TwoStage(2)
    other.reg = nn.Linear(2, 4)
    before = copy_tensor(network.reg.weight)
    sentences = transfer_weights(
        network, make_checkpoint(other, OTHER_CLASSES), CLASSES, TwoStage.LAYERS
    )

    assert torch.equal(network.reg.weight, before)
    assert "reg.weight is (4, 2) in the checkpoint and (12, 2) here" in sentences[1]


def test_one_regressor_for_all_classes_is_copied_to_one_for_all() -> None:
    network, other = TwoStage(3), TwoStage(2)
    network.reg = nn.Linear(2, 4)
    other.reg = nn.Linear(2, 4)
    transfer_weights(network, make_checkpoint(other, OTHER_CLASSES), CLASSES, TwoStage.LAYERS)
    assert torch.equal(network.reg.weight, other.reg.weight)


def test_outputs_of_classes_without_names_are_trained_from_scratch() -> None:
    network, other = OneStage(2), OneStage(2)
    before = copy_tensor(network.cls.weight)
    sentences = transfer_weights(network, make_checkpoint(other, ()), ("a", "b"), OneStage.LAYERS)

    assert torch.equal(network.cls.weight, before)
    assert "cls.weight has rows of classes that the checkpoint does not name" in sentences[1]


def test_what_does_not_fit_or_is_absent_is_listed() -> None:
    other = OneStage(2, width=5).state_dict()
    del other["neck.bias"]
    sentences = transfer_weights(
        OneStage(2), Checkpoint(other, ("a", "b")), ("a", "b"), OneStage.LAYERS
    )
    assert sentences[0] == "4 of 6 tensors copied; classes kept by name: a, b"
    assert sentences[1] == (
        "1 tensors do not fit and are trained from scratch: "
        "neck.weight is (2, 5) in the checkpoint and (2, 3) here"
    )
    assert sentences[2] == (
        "1 tensors are not in the checkpoint and are trained from scratch: neck.bias"
    )


def test_a_long_list_is_cut() -> None:
    network = nn.Module()
    network.backbone = nn.Linear(1, 1)
    network.rest = nn.ParameterList(torch.zeros(1) for _ in range(12))
    backbone = {"backbone.weight": torch.zeros(1, 1), "backbone.bias": torch.zeros(1)}
    sentences = transfer_weights(network, Checkpoint(backbone), (), ())
    assert sentences[1].startswith("12 tensors are not in the checkpoint")
    assert sentences[1].endswith("rest.9; and 2 more")


def test_a_checkpoint_of_another_backbone_is_an_error() -> None:
    counter = torch.tensor(3)
    wrong = {"backbone.weight": torch.zeros(9), "backbone.num_batches_tracked": counter}
    with pytest.raises(
        DataError, match=r"backbone fits this base model: backbone\.weight is \(9,\)"
    ):
        transfer_weights(OneStage(2), Checkpoint(wrong), ("a", "b"), OneStage.LAYERS)
    with pytest.raises(DataError, match="no name in common"):
        transfer_weights(OneStage(2), Checkpoint({}), ("a", "b"), OneStage.LAYERS)


class Masks(nn.Module):
    """A detector with boxes, or with boxes and masks."""

    LAYERS = (ClassLayer(r"roi_head\.mask_head\.conv_logits\.(weight|bias)"),)

    def __init__(self, classes: int, *, has_masks: bool) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        heads: dict[str, nn.Module] = {"bbox_head": nn.Linear(2, 2)}
        if has_masks:
            heads["mask_head"] = nn.ModuleDict({"conv_logits": nn.Conv2d(2, classes, 1)})
        self.roi_head = nn.ModuleDict(heads)

    @property
    def mask_weight(self) -> Tensor:
        return self.state_dict()["roi_head.mask_head.conv_logits.weight"]


def test_a_mask_head_starts_afresh_from_a_detector_of_boxes() -> None:
    network, parent = Masks(3, has_masks=True), Masks(3, has_masks=False)
    before = copy_tensor(network.mask_weight)
    checkpoint = make_checkpoint(parent, CLASSES)

    assert transfer_weights(network, checkpoint, CLASSES, Masks.LAYERS) == [
        "4 of 6 tensors copied",
        "the checkpoint finds boxes only: the mask head is trained from scratch",
    ]
    assert torch.equal(network.backbone.weight, parent.backbone.weight)
    assert torch.equal(network.mask_weight, before)


def test_masks_go_to_their_classes_by_name() -> None:
    network, parent = Masks(3, has_masks=True), Masks(2, has_masks=True)
    checkpoint = make_checkpoint(parent, OTHER_CLASSES)
    (sentence,) = transfer_weights(network, checkpoint, CLASSES, Masks.LAYERS)
    assert sentence == "6 of 6 tensors copied; classes kept by name: boat, car"

    own = network.mask_weight
    others = parent.mask_weight
    assert torch.equal(own[[0, 2]], others[[1, 0]])


def test_a_checkpoint_with_masks_gives_its_boxes() -> None:
    network, parent = Masks(3, has_masks=False), Masks(3, has_masks=True)
    checkpoint = make_checkpoint(parent, CLASSES)
    (sentence,) = transfer_weights(network, checkpoint, CLASSES, ())
    assert sentence == "4 of 4 tensors copied"
