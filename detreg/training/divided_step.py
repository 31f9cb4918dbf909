"""The gradients of a batch that is too large for the GPU, computed a few images at a time.

Almost all of a step's memory holds what the layers of backbone, neck and dense head (the head of a
one-stage detector, the RPN of a two-stage one) keep for their backward pass. What they put out is
small, and the losses depend on nothing else. So the batch is divided before them and is whole
again for the losses:

1. Each part of the batch passes through these layers. Only their outputs are kept.
2. The outputs of all parts, put together, give the losses of the whole batch, and the losses give
   the gradients of the outputs.
3. Each part passes through the layers again, now with gradients, which begin with those of 2.

So every loss sees the whole batch: its normalizers, OHEM over the batch and the random samples of
RPN and RoI head are those of the undivided step, whatever the head. A gradient differs by rounding
only. Where batch norms are trained it differs more, as their statistics are those of a part. The
price is the second forward pass.

The usual way, which sums up the gradients of each part's own losses, would have to weight every
loss by its normalizer, and could not reproduce OHEM and samples at all. (GradCache, arXiv:
2101.06983, divides batches for contrastive losses as it is done here.)
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmengine.dist import all_reduce, all_reduce_params
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_unflatten

from detreg.training.distributed import unwrap
from detreg.training.masks import MaskRetinaNet
from detreg.training.random_state import RandomState

Batch = Mapping[str, Any]
"""What the data preprocessor makes of a step: `inputs` (n, 3, height, width), `data_samples`."""

DenseOutputs = tuple[Any, Any]
"""The features and what the dense head makes of them: tensors (n, ...) in tuples and lists."""


def prepare_batch(model: Any, optimizer: OptimWrapper, data: object) -> Batch:
    """Return a step's images as one padded tensor on the model's device, with their boxes."""
    network: Any = unwrap(model)
    with optimizer.optim_context(model):
        batch: Batch = network.data_preprocessor(data, True)
    return batch


def compute_gradients(model: Any, optimizer: OptimWrapper, batch: Batch) -> dict[str, Tensor]:
    """Compute the gradients of a whole batch at once; return its losses by name.

    With `prepare_batch` before and the optimizer's step after it, this is MMEngine's train_step.
    """
    with optimizer.optim_context(model):
        losses = model(**batch, mode="loss")
    return _run_backward_of_losses(unwrap(model), optimizer, losses)


def compute_divided_gradients(
    model: Any, optimizer: OptimWrapper, batch: Batch, num_parts: int
) -> dict[str, Tensor]:
    """Compute the gradients of a batch in so many parts; return its losses by name.

    Processes that train together have to call this in the same step, with as many parts each.
    """
    # DDP takes one backward pass for all of a step: their gradients are averaged here instead.
    network: Any = unwrap(model)
    parts: Sequence[Tensor] = batch["inputs"].tensor_split(num_parts)

    random_states = []
    outputs_of_parts = []
    with torch.no_grad(), _keep_statistics(network):
        for images in parts:
            random_states.append(RandomState.capture())
            with optimizer.optim_context(model):
                outputs_of_parts.append(_run_dense_layers(network, images))
    outputs = _join(outputs_of_parts)
    outputs_of_parts.clear()

    with optimizer.optim_context(model), _substitute_dense_layers(network, outputs):
        losses = network(**batch, mode="loss")
    by_name = _run_backward_of_losses(network, optimizer, losses)

    gradients = [output.grad for output in tree_flatten(outputs)[0]]
    first = 0
    for images, random_state in zip(parts, random_states, strict=True):
        end = first + len(images)
        random_state.restore()
        with optimizer.optim_context(model):
            outputs = _run_dense_layers(network, images)
        _run_backward_of_part(outputs, [_cut(gradient, first, end) for gradient in gradients])
        first = end

    all_reduce_params(_list_gradients(network), op="mean")
    return by_name


def count_parts(images: int, micro_batch: int) -> int:
    """Return the parts of at most `micro_batch` images, as many in each process of a training.

    Processes may differ by one image in the last step of an epoch. Where a process has fewer images
    than that, all take as many parts as it has images.
    """
    counts = torch.tensor([-math.ceil(images / micro_batch), images])
    all_reduce(counts, op="min")
    parts, fewest_images = -int(counts[0]), int(counts[1])
    return min(parts, fewest_images)


def _run_dense_layers(network: Any, images: Tensor) -> DenseOutputs:
    features = network.extract_feat(images)
    outputs = _get_dense_head(network)(features)
    # What nobody reads later is not kept.
    has_second_stage = _is_two_stage(network) or isinstance(network, MaskRetinaNet)
    return features if has_second_stage else (), outputs


def _is_two_stage(network: nn.Module) -> bool:
    return isinstance(network, TwoStageDetector)


def _get_dense_head(network: Any) -> nn.Module:
    head: nn.Module = network.rpn_head if _is_two_stage(network) else network.bbox_head
    return head


def _join(outputs_of_parts: Sequence[DenseOutputs]) -> DenseOutputs:
    """Put the outputs of all parts together, as leaves whose gradients are kept."""
    _, structure = tree_flatten(outputs_of_parts[0])
    tensors_of_parts = [tree_flatten(outputs)[0] for outputs in outputs_of_parts]
    joined = [
        torch.cat(tensors).requires_grad_() for tensors in zip(*tensors_of_parts, strict=True)
    ]
    outputs: DenseOutputs = tree_unflatten(joined, structure)
    return outputs


@contextmanager
def _substitute_dense_layers(network: Any, outputs: DenseOutputs) -> Iterator[None]:
    """Let the network have these outputs inside the block, whatever its images are."""
    features, of_head = outputs
    head: Any = _get_dense_head(network)
    own_forward = head.forward
    # Attributes of the objects, which hide the methods of their classes.
    network.extract_feat = lambda *_: features
    head.forward = lambda *_: of_head
    try:
        yield
    finally:
        del network.extract_feat
        head.forward = own_forward


def _run_backward_of_losses(
    network: Any, optimizer: OptimWrapper, losses: object
) -> dict[str, Tensor]:
    total, by_name = network.parse_losses(losses)
    optimizer.backward(optimizer.scale_loss(total))
    return dict(by_name)


def _run_backward_of_part(outputs: DenseOutputs, gradients: Sequence[Tensor | None]) -> None:
    tensors, given = [], []
    for tensor, gradient in zip(tree_flatten(outputs)[0], gradients, strict=True):
        # Features of a frozen backbone need none, and not every loss reads every output.
        if tensor.requires_grad and gradient is not None:
            tensors.append(tensor)
            given.append(gradient)
    torch.autograd.backward(tensors, given)


def _cut(gradient: Tensor | None, first: int, end: int) -> Tensor | None:
    return None if gradient is None else gradient[first:end]


def _list_gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@contextmanager
def _keep_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch norms normalize as in training, without counting the images they see."""
    norms = [norm for norm in list_trained_norms(network) if norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def list_trained_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that normalize by the images of a step.

    The network must be in training mode.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.training]
