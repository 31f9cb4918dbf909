"""The mask branch: what it learns from, and what it predicts (its parts: templates/_masks.py).

A mask is a grid of probabilities over its box. It becomes pixels only where detections are used
(`detreg.inference.masks`), so that nothing here depends on the size of the images.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import RetinaNet
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor, nn

from detreg.inference.outputs import MASK_SIDE
from detreg.training.object_masks import ObjectMasks

_CHUNK = 100
"""Boxes whose masks are predicted at once: the maps of 1000 would take a gigabyte."""

Losses = dict[str, Any]


@MODELS.register_module()
class MaskHead(FCNMaskHead):
    """Mask R-CNN's head, whose masks start undecided.

    Published is `fan_out` for the last layer, which with few classes gives logits of 10 and more: a
    short training spends its epochs on taking them back.
    """

    def init_weights(self) -> None:
        """Initialize as published, but for the doubling layer and the last one."""
        super().init_weights()
        # Each cell that the transposed convolution makes comes from one cell of its input. Its
        # fans in torch count all four that one cell makes.
        std = (2 / self.upsample.in_channels) ** 0.5
        nn.init.normal_(self.upsample.weight, std=std)
        nn.init.normal_(self.conv_logits.weight, std=0.01)


@MODELS.register_module()
class MaskRoIHead(StandardRoIHead):
    """The second stage of Mask R-CNN, with grids of probabilities in place of pasted masks.

    Objects without a mask train boxes only. While the attribute `predicts_masks` is false,
    predictions have no masks.
    """

    predicts_masks = True

    def mask_loss(
        self,
        x: tuple[Tensor, ...],
        sampling_results: Sequence[Any],
        bbox_feats: Tensor | None,  # noqa: ARG002  MMDetection's signature
        batch_gt_instances: Sequence[InstanceData],
    ) -> Losses:
        """Return the loss of the masks of all positive boxes whose object has a mask.

        `sampling_results` are MMDetection's SamplingResult of each image. The masks of an object
        are its `masks`, an ObjectMasks. Without any positive box the loss is 0.
        """
        boxes, labels, targets = [], [], []
        for sampled, objects in zip(sampling_results, batch_gt_instances, strict=True):
            device = sampled.pos_priors.device
            has_mask = torch.as_tensor(objects.masks.has_mask, device=device)
            usable = has_mask[sampled.pos_assigned_gt_inds]
            own_boxes = sampled.pos_priors[usable]
            boxes.append(own_boxes)
            labels.append(sampled.pos_gt_labels[usable])
            owners = sampled.pos_assigned_gt_inds[usable]
            targets.append(_crop_targets(objects.masks, own_boxes, owners))

        logits = self._mask_forward(x, bbox2roi(boxes))["mask_preds"]
        if len(logits):
            loss = self.mask_head.loss_mask(logits, torch.cat(targets), torch.cat(labels))
        else:
            # Not a constant: processes that train together wait for the gradients of each other.
            loss = logits.sum()
        return {"loss_mask": {"loss_mask": loss}}

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: Sequence[dict[str, Any]],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Return the detections of each image with `masks` float32 (n, 28, 28).

        A mask holds the probability of each cell of a grid over the detection's box, of its own
        class. Boxes come in pixels of the input, and leave in those of the image with `rescale`.
        """
        if self.predicts_masks:
            rois = bbox2roi([results.bboxes for results in results_list])
            labels = torch.cat([results.labels for results in results_list])
            chunks = zip(rois.split(_CHUNK), labels.split(_CHUNK), strict=True)
            masks = torch.cat([self._predict_chunk(x, *chunk) for chunk in chunks])
            counts = [len(results) for results in results_list]
            for results, own_masks in zip(results_list, masks.split(counts), strict=True):
                results.masks = own_masks

        if rescale:
            for results, metainfo in zip(results_list, batch_img_metas, strict=True):
                factors = results.bboxes.new_tensor(metainfo["scale_factor"]).repeat(2)
                results.bboxes = results.bboxes / factors
        return results_list

    def _predict_chunk(self, x: tuple[Tensor, ...], rois: Tensor, labels: Tensor) -> Tensor:
        logits = self._mask_forward(x, rois)["mask_preds"]
        every_box = torch.arange(len(labels), device=labels.device)
        own_logits: Tensor = logits[every_box, labels]
        return own_logits.sigmoid()


@MODELS.register_module()
class MaskOnlyRoIHead(MaskRoIHead):
    """The mask branch of a single-stage detector, whose boxes are final."""

    def loss(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: Sequence[InstanceData],
        batch_data_samples: Sequence[DetDataSample],
    ) -> dict[str, Tensor]:
        """Return the loss of the masks of a batch, with detections as proposals."""
        objects_of_images, ignored_of_images, _ = unpack_gt_instances(batch_data_samples)
        samples, teachers_of_images = [], []
        for detections, objects, ignored in zip(
            rpn_results_list, objects_of_images, ignored_of_images, strict=True
        ):
            proposals = InstanceData(priors=detections.bboxes)
            # No box of the few that are sampled goes to an object that has nothing to teach.
            teachers = objects[
                torch.as_tensor(objects.masks.has_mask, device=objects.labels.device)
            ]
            assigned = self.bbox_assigner.assign(proposals, teachers, ignored)
            samples.append(self.bbox_sampler.sample(assigned, proposals, teachers))
            teachers_of_images.append(teachers)
        mask_loss = self.mask_loss(x, samples, None, teachers_of_images)
        losses: dict[str, Tensor] = mask_loss["loss_mask"]
        return losses


@MODELS.register_module()
class MaskRetinaNet(RetinaNet):
    """RetinaNet with a mask branch on its own detections (RetinaMask, arXiv:1901.03353)."""

    def __init__(self, *args: object, roi_head: dict[str, Any], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.roi_head = MODELS.build(roi_head)

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]) -> Losses:
        """Return the losses of boxes and masks."""
        features = self.extract_feat(batch_inputs)
        losses, detections = self.bbox_head.loss_and_predict(features, batch_data_samples)
        return losses | self.roi_head.loss(features, detections, batch_data_samples)

    def predict(
        self,
        batch_inputs: Tensor,
        batch_data_samples: Sequence[DetDataSample],
        rescale: bool = True,
    ) -> Sequence[DetDataSample]:
        """Return the samples with detections and their masks."""
        features = self.extract_feat(batch_inputs)
        detections = self.bbox_head.predict(features, batch_data_samples, rescale=False)
        metainfo = [sample.metainfo for sample in batch_data_samples]
        detections = self.roi_head.predict_mask(features, metainfo, detections, rescale)
        samples: Sequence[DetDataSample] = self.add_pred_to_datasample(
            batch_data_samples, detections
        )
        return samples


def _crop_targets(masks: ObjectMasks, boxes: Tensor, owners: Tensor) -> Tensor:
    """Return which cells (n, 28, 28) of a grid over each box lie in its object's mask: 1.0 or 0.0.

    `masks` are those of the image's objects, `owners` (n,) the object of each box (n, 4).
    """
    cropped = masks.crop_and_resize(boxes, (MASK_SIDE, MASK_SIDE), owners)
    return torch.from_numpy(cropped.to_ndarray()).to(boxes)
