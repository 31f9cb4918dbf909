"""torchvision's operators behind mmcv's names, so that MMDetection runs without mmcv's compiled extension.

mmcv 2.1.0 has no wheel for present versions of torch and compiles for a quarter of an hour. mmcv-lite is the same Python code without
the extension `mmcv._ext`; the detectors here need five operators of it, which torchvision has too, or which are a few lines. Where
the compiled mmcv is installed, it is used and nothing is replaced. See docs/decisions/0002-mmcv-without-a-compiler.md.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from torch import Tensor


def install() -> None:
    """Registers the stand-in for `mmcv._ext` unless the compiled one, or the stand-in, is there already."""
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext") is not None:
        return
    extension = _Extension("mmcv._ext")
    extension.__spec__ = ModuleSpec(
        "mmcv._ext", loader=None
    )  # mmengine looks for it with pkgutil.find_loader
    sys.modules["mmcv._ext"] = extension


class _Extension(ModuleType):
    """`mmcv._ext` with five operators; every other name can be looked up, as mmcv does at import, but not called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise NotImplementedError(
                f"mmcv's operator {name} needs the compiled mmcv: pip uninstall mmcv-lite; pip install mmcv==2.1.0"
            )

        return missing

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
        """Indices of the boxes to keep, by descending score; boxes (n, 4) xyxy, scores (n,)."""
        from torchvision.ops import nms

        if offset != 0:
            raise NotImplementedError("torchvision's NMS has no pixel offset: use offset=0")
        return nms(boxes, scores, iou_threshold)

    @staticmethod
    def roi_align_forward(
        features: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, *,
        aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
    ) -> None:  # fmt: skip
        """Average RoIAlign of `features` (n, c, h, w) at `rois` (k, 5) into `output` (k, c, aligned_height, aligned_width)."""
        import torch

        _only_average(pool_mode, argmax_y, argmax_x)
        output.copy_(
            torch.ops.torchvision.roi_align(
                features,
                rois,
                spatial_scale,
                aligned_height,
                aligned_width,
                sampling_ratio,
                aligned,
            )
        )

    @staticmethod
    def roi_align_backward(
        grad: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, *,
        aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
    ) -> None:  # fmt: skip
        """Gradient of `roi_align_forward` into `grad_input` (n, c, h, w)."""
        import torch

        _only_average(pool_mode, argmax_y, argmax_x)
        backward = torch.ops.torchvision._roi_align_backward
        grad_input.copy_(
            backward(
                grad,
                rois,
                spatial_scale,
                aligned_height,
                aligned_width,
                *grad_input.shape,
                sampling_ratio,
                aligned,
            )
        )

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
        """Focal loss of `logits` (n, c) for `target` (n,), c being the background, into `output` (n, c); `weight` (c,) or empty.

        MMDetection asks for it on GPUs only; on CPUs it has Python of its own.
        """
        output.copy_(_focal_loss(logits, target, weight, gamma, alpha))

    @staticmethod
    def sigmoid_focal_loss_backward(
        logits: Tensor, target: Tensor, weight: Tensor, grad: Tensor, *, gamma: float, alpha: float
    ) -> None:
        """The derivative of each element's loss by its own logit into `grad` (n, c)."""
        import torch

        with torch.enable_grad():
            own = logits.detach().requires_grad_()
            grad.copy_(
                torch.autograd.grad(_focal_loss(own, target, weight, gamma, alpha).sum(), own)[0]
            )


def _focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float
) -> Tensor:
    from torch.nn.functional import one_hot
    from torchvision.ops import sigmoid_focal_loss

    classes = logits.shape[1]
    loss = sigmoid_focal_loss(
        logits, one_hot(target, classes + 1)[:, :classes].to(logits.dtype), alpha, gamma
    )
    return loss * weight[target.clamp(max=classes - 1)].unsqueeze(1) if weight.numel() else loss


def _only_average(pool_mode: int, *unused: Tensor) -> None:  # noqa: ARG001
    if pool_mode != 1:
        raise NotImplementedError("torchvision's RoIAlign averages: use pool_mode='avg'")
