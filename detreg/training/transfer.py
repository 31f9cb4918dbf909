"""How the weights of a checkpoint get into a network that may have other classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from detreg.errors import DataError
from detreg.templates.template import ClassLayer
from detreg.training.checkpoints import Checkpoint

_MOST_LISTED = 10


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
    transfer = _Transfer()
    for name, value in checkpoint.state_dict.items():
        if name in own:
            layer = _find_class_layer(name, layers)
            transfer.add(name, own[name], value, layer, classes, checkpoint.classes)

    _check_backbone(transfer)
    network.load_state_dict(transfer.fitting, strict=False)

    absent = [
        name
        for name in own
        if name not in checkpoint.state_dict and not name.endswith("num_batches_tracked")
    ]
    shared_classes = [name for name in classes if name in checkpoint.classes]
    return _describe(transfer, len(own), absent, shared_classes)


@dataclass
class _Transfer:
    """What of a checkpoint fits, under the network's names, and why the rest does not."""

    fitting: dict[str, Tensor] = field(default_factory=dict)
    misfits: list[str] = field(default_factory=list)
    is_by_class: bool = False

    def add(
        self,
        name: str,
        own: Tensor,
        value: Tensor,
        layer: ClassLayer | None,
        classes: tuple[str, ...],
        checkpoint_classes: tuple[str, ...],
    ) -> None:
        """Decide on one tensor of the checkpoint, `value`, which is `own` in the network."""
        if layer is not None and not checkpoint_classes:
            self.misfits.append(f"{name} has rows of classes that the checkpoint does not name")
        elif layer is not None and _match_by_class(own, value, layer, classes, checkpoint_classes):
            self.fitting[name] = _copy_rows(own, value, layer, classes, checkpoint_classes)
            self.is_by_class = True
        elif own.shape == value.shape:
            # Also a class layer whose rows all classes share, such as one box regressor for all.
            self.fitting[name] = value
        else:
            self.misfits.append(
                f"{name} is {tuple(value.shape)} in the checkpoint and {tuple(own.shape)} here"
            )


def _find_class_layer(name: str, layers: Sequence[ClassLayer]) -> ClassLayer | None:
    for layer in layers:
        if re.fullmatch(layer.pattern, name):
            return layer
    return None


def _match_by_class(
    own: Tensor,
    other: Tensor,
    layer: ClassLayer,
    classes: Sequence[str],
    other_classes: Sequence[str],
) -> bool:
    """Return whether two tensors differ in nothing but the classes that their rows stand for."""
    blocks = _count_blocks(own, layer, classes)
    other_blocks = _count_blocks(other, layer, other_classes)
    return blocks is not None and blocks == other_blocks and own.shape[1:] == other.shape[1:]


def _count_blocks(value: Tensor, layer: ClassLayer, classes: Sequence[str]) -> int | None:
    """Return how many blocks with rows for each class a tensor has, such as one for each anchor.

    None where its length is no multiple of that, so that its rows are not those of classes.
    """
    rows_per_block = layer.rows * (len(classes) + layer.background)
    if len(value) % rows_per_block:
        return None
    return len(value) // rows_per_block


def _copy_rows(
    own: Tensor,
    other: Tensor,
    layer: ClassLayer,
    classes: tuple[str, ...],
    other_classes: tuple[str, ...],
) -> Tensor:
    """Return a copy of `own` with `other`'s rows for shared classes, and for the background."""
    result = own.clone()
    # (blocks, classes and background, rows of a class, ...); views, so that writing changes result.
    target = result.view(-1, len(classes) + layer.background, layer.rows, *own.shape[1:])
    source = other.view(-1, len(other_classes) + layer.background, layer.rows, *other.shape[1:])

    for position, name in enumerate(classes):
        if name in other_classes:
            target[:, position] = source[:, other_classes.index(name)]
    if layer.background:  # stands after all classes
        target[:, -1] = source[:, -1]
    return result


def _check_backbone(transfer: _Transfer) -> None:
    """Raise DataError where the checkpoint gives the backbone nothing."""
    for name, value in transfer.fitting.items():
        # Scalars do not count: batch norms' counters are in every network and fit everywhere.
        if name.startswith("backbone.") and value.ndim > 0:
            return

    examples = "; ".join(transfer.misfits[:3]) or "no name in common"
    raise DataError(f"nothing of the checkpoint's backbone fits this base model: {examples}")


def _describe(
    transfer: _Transfer, total: int, absent: Sequence[str], shared_classes: Sequence[str]
) -> list[str]:
    copied = f"{len(transfer.fitting)} of {total} tensors copied"
    if transfer.is_by_class:
        copied += f"; classes kept by name: {', '.join(shared_classes) or 'none'}"

    sentences = [copied]
    if transfer.misfits:
        sentences.append(
            f"{len(transfer.misfits)} tensors do not fit and are trained from scratch: "
            + _join_first(transfer.misfits)
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
