"""torchvision's operators behind mmcv's names: MMDetection without mmcv's compiled extension.

mmcv 2.1.0 has no wheel for present versions of torch and compiles for a quarter of an hour.
mmcv-lite is the same Python code without the extension `mmcv._ext`; the detectors here need five
operators of it, which torchvision has too, or which are a few lines. Where the compiled mmcv is
installed, it is used and nothing is replaced. See docs/decisions/0002-mmcv-without-a-compiler.md.

Operators have mmcv's signatures: they write their results into tensors that the caller allocates.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

import torch
import torchvision.ops
from torch import Tensor
from torch.nn.functional import one_hot


def install() -> None:
    """Register the stand-in for `mmcv._ext`, unless that or the compiled one is there already."""
    is_registered = "mmcv._ext" in sys.modules
    if is_registered or importlib.util.find_spec("mmcv._ext") is not None:
        return

    extension = _Extension("mmcv._ext")
    # mmengine asks pkgutil.find_loader for the extension, which needs a spec.
    extension.__spec__ = ModuleSpec("mmcv._ext", loader=None)
    sys.modules["mmcv._ext"] = extension


class _Extension(ModuleType):
    """A stand-in for `mmcv._ext` with five operators.

    mmcv looks up all of its operators at import, so every other name can be looked up too, but not
    called.
    """

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        # Python asks modules for names such as __path__, which must stay missing.
        if name.startswith("__"):
            raise AttributeError(name)

        def raise_missing(*args: object, **kwargs: object) -> NoReturn:
            raise NotImplementedError(
                f"mmcv's operator {name} needs the compiled mmcv: "
                "pip uninstall mmcv-lite; pip install mmcv==2.1.0"
            )

        return raise_missing

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
        """Return the indices of the boxes to keep, by descending score.

        `boxes` is (n, 4) xyxy, `scores` (n,).
        """
        if offset != 0:
            raise NotImplementedError(
                f"torchvision's NMS has no pixel offset: offset must be 0, got {offset}"
            )
        return torchvision.ops.nms(boxes, scores, iou_threshold)

    @staticmethod
    def roi_align_forward(  # noqa: PLR0913  mmcv's signature
        features: Tensor,
        rois: Tensor,
        output: Tensor,
        argmax_y: Tensor,  # noqa: ARG004
        argmax_x: Tensor,  # noqa: ARG004
        *,
        aligned_height: int,
        aligned_width: int,
        spatial_scale: float,
        sampling_ratio: int,
        pool_mode: int,
        aligned: bool,
    ) -> None:
        """Write the average RoIAlign of `features` (n, c, h, w) at `rois` (k, 5) into `output`.

        `output` is (k, c, aligned_height, aligned_width). `argmax_y` and `argmax_x` are for maxima
        only and stay as they are.
        """
        _check_pool_mode(pool_mode)
        aligned_features = torch.ops.torchvision.roi_align(
            features,
            rois,
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
        output.copy_(aligned_features)

    @staticmethod
    def roi_align_backward(  # noqa: PLR0913  mmcv's signature
        grad: Tensor,
        rois: Tensor,
        argmax_y: Tensor,  # noqa: ARG004
        argmax_x: Tensor,  # noqa: ARG004
        grad_input: Tensor,
        *,
        aligned_height: int,
        aligned_width: int,
        spatial_scale: float,
        sampling_ratio: int,
        pool_mode: int,
        aligned: bool,
    ) -> None:
        """Write the gradient of `roi_align_forward` into `grad_input` (n, c, h, w)."""
        _check_pool_mode(pool_mode)
        # torchvision differentiates its own RoIAlign by this operator, which is not public.
        gradient = torch.ops.torchvision._roi_align_backward(
            grad,
            rois,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
        grad_input.copy_(gradient)

    @staticmethod
    def sigmoid_focal_loss_forward(
        logits: Tensor,
        target: Tensor,
        weight: Tensor,
        output: Tensor,
        *,
        gamma: float,
        alpha: float,
    ) -> None:
        """Write the focal loss of each of `logits` (n, c) into `output` (n, c).

        `target` is (n,), where c means background; `weight` is (c,) or empty. MMDetection asks for
        this on GPUs only; on CPUs it has Python of its own.
        """
        output.copy_(_compute_focal_loss(logits, target, weight, gamma, alpha))

    @staticmethod
    def sigmoid_focal_loss_backward(
        logits: Tensor, target: Tensor, weight: Tensor, grad: Tensor, *, gamma: float, alpha: float
    ) -> None:
        """Write the derivative of each element's loss by its own logit into `grad` (n, c)."""
        # mmcv calls this inside a backward pass, where gradients are off.
        with torch.enable_grad():
            variable = logits.detach().requires_grad_()
            loss = _compute_focal_loss(variable, target, weight, gamma, alpha)
            (derivative,) = torch.autograd.grad(loss.sum(), variable)
        grad.copy_(derivative)


def _compute_focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    """Return the focal loss (n, c); each row is weighted by its target, background by the last."""
    classes = logits.shape[1]
    goal = one_hot(target, classes + 1)[:, :classes].to(logits.dtype)  # background is all zeros
    loss = torchvision.ops.sigmoid_focal_loss(logits, goal, alpha, gamma)

    if not weight.numel():
        return loss
    row_weights = weight[target.clamp(max=classes - 1)]
    return loss * row_weights.unsqueeze(1)


def _check_pool_mode(pool_mode: int) -> None:
    if pool_mode != 1:  # mmcv's number for "avg"; 0 is "max"
        raise NotImplementedError("torchvision's RoIAlign averages: use pool_mode='avg'")
