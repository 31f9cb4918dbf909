"""How the weights of a checkpoint get into a network that may have other classes.

A template declares its output layers as `ClassLayer`s: the pattern of the tensors' names, `rows`
(how many rows of a tensor belong to one class, such as 4 for a box) and `background` (1 where one
more class, the background, comes after the others, else 0). A tensor may hold several such blocks
of classes in a row, for example one for each anchor.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from detreg.errors import DataError
from detreg.templates.template import ClassLayer
from detreg.training.checkpoints import Checkpoint

_MOST_LISTED = 10
_MASK_HEAD = "roi_head.mask_head."


def transfer_weights(
    network: nn.Module,
    checkpoint: Checkpoint,
    classes: tuple[str, ...],
    layers: tuple[ClassLayer, ...],
) -> list[str]:
    """Copy the weights of a checkpoint into `network` and return sentences on what was copied.

    Tensors go by name. Those of the output `layers`, which have rows for each class, go class by
    class: a class that both sides know keeps its rows, wherever it stands in `classes`. What does
    not fit, or is not in the checkpoint, stays as it is in `network`.

    Raises DataError where nothing of the backbone fits.
    """
    own = network.state_dict()
    class_names = _ClassNames(classes, checkpoint.classes)
    fitting: dict[str, Tensor] = {}
    misfits: list[str] = []
    is_by_class = False

    for name, value in checkpoint.state_dict.items():
        if name not in own:
            continue
        target = own[name]
        layer = _find_class_layer(name, layers)

        if layer is not None and not checkpoint.classes:
            misfits.append(f"{name} has rows of classes that the checkpoint does not name")
        elif layer is not None and _has_matching_rows(target, value, layer, class_names):
            fitting[name] = _copy_rows(target, value, layer, class_names)
            is_by_class = True
        elif target.shape == value.shape:
            # Also an output layer whose rows all classes share, such as one box regressor for all.
            fitting[name] = value
        else:
            here = tuple(target.shape)
            there = tuple(value.shape)
            misfits.append(f"{name} is {there} in the checkpoint and {here} here")

    _check_backbone(fitting, misfits)
    network.load_state_dict(fitting, strict=False)

    copied = f"{len(fitting)} of {len(own)} tensors copied"
    if is_by_class:
        copied += f"; classes kept by name: {', '.join(class_names.shared) or 'none'}"
    absent = [name for name in own if name not in checkpoint.state_dict and not _is_counter(name)]
    if not _lacks_masks_only(own, checkpoint.state_dict):
        return [copied, *_describe_rest(misfits, absent)]
    absent = [name for name in absent if not name.startswith(_MASK_HEAD)]
    afresh = "the checkpoint finds boxes only: the mask head is trained from scratch"
    return [copied, afresh, *_describe_rest(misfits, absent)]


@dataclass(frozen=True)
class _ClassNames:
    """The classes of the network and of the checkpoint, each in the order of their rows."""

    own: tuple[str, ...]
    checkpoint: tuple[str, ...]

    @property
    def shared(self) -> list[str]:
        """The classes that both know, in the network's order."""
        return [name for name in self.own if name in self.checkpoint]


def _find_class_layer(name: str, layers: Sequence[ClassLayer]) -> ClassLayer | None:
    for layer in layers:
        if re.fullmatch(layer.pattern, name):
            return layer
    return None


def _has_matching_rows(own: Tensor, value: Tensor, layer: ClassLayer, names: _ClassNames) -> bool:
    """Return whether two tensors differ in nothing but the classes that their rows stand for."""
    own_blocks = _count_blocks(own, layer, names.own)
    blocks = _count_blocks(value, layer, names.checkpoint)
    if blocks is None or blocks != own_blocks:
        return False
    return own.shape[1:] == value.shape[1:]


def _count_blocks(value: Tensor, layer: ClassLayer, classes: Sequence[str]) -> int | None:
    """Return how many blocks with rows for each class a tensor has, such as one for each anchor.

    None where its length is not divisible by the rows of such a block: its rows are not those of
    these classes.
    """
    rows_per_block = layer.rows * (len(classes) + layer.background)
    if len(value) % rows_per_block:
        return None
    return len(value) // rows_per_block


def _copy_rows(own: Tensor, value: Tensor, layer: ClassLayer, names: _ClassNames) -> Tensor:
    """Return a copy of `own` with the rows of `value` for shared classes and the background."""
    result = own.clone()
    # (blocks, classes and background, rows of a class, ...): views, so writing changes `result`.
    target = _view_by_class(result, layer, names.own)
    source = _view_by_class(value, layer, names.checkpoint)

    for name in names.shared:
        target[:, names.own.index(name)] = source[:, names.checkpoint.index(name)]
    if layer.background:  # its rows come after those of all classes
        target[:, -1] = source[:, -1]
    return result


def _view_by_class(value: Tensor, layer: ClassLayer, classes: Sequence[str]) -> Tensor:
    return value.view(-1, len(classes) + layer.background, layer.rows, *value.shape[1:])


def _check_backbone(fitting: dict[str, Tensor], misfits: Sequence[str]) -> None:
    """Raise DataError where the checkpoint gives the backbone nothing."""
    for name, value in fitting.items():
        # Scalars do not count: batch norms' counters are in every network and fit everywhere.
        if name.startswith("backbone.") and value.ndim > 0:
            return

    examples = "; ".join(misfits[:3]) or "no name in common"
    raise DataError(f"nothing of the checkpoint's backbone fits this base model: {examples}")


def has_mask_head(state_dict: Mapping[str, Tensor]) -> bool:
    """Return whether a detector finds masks beside boxes."""
    return any(name.startswith(_MASK_HEAD) for name in state_dict)


def _lacks_masks_only(own: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Return whether a network with masks gets the weights of a detector of boxes."""
    finds_boxes = any("bbox_head." in name for name in others)
    return has_mask_head(own) and finds_boxes and not has_mask_head(others)


def _is_counter(name: str) -> bool:
    """Return whether a tensor counts a batch norm's steps, which old checkpoints leave out."""
    return name.endswith("num_batches_tracked")


def _describe_rest(misfits: Sequence[str], absent: Sequence[str]) -> list[str]:
    """Return a sentence for each reason why tensors stay as they are."""
    sentences = []
    if misfits:
        sentences.append(
            f"{len(misfits)} tensors do not fit and are trained from scratch: "
            + _join_first(misfits)
        )
    if absent:
        sentences.append(
            f"{len(absent)} tensors are not in the checkpoint and are trained from scratch: "
            + _join_first(absent)
        )
    return sentences


def _join_first(texts: Sequence[str]) -> str:
    joined = "; ".join(texts[:_MOST_LISTED])
    if len(texts) > _MOST_LISTED:
        joined += f"; and {len(texts) - _MOST_LISTED} more"
    return joined
