"""Heads that MMDetection lacks, or ships broken."""

from typing import Any

import torch
from mmdet.models.dense_heads import RetinaHead, SSDHead
from mmdet.models.utils import filter_scores_and_topk, images_to_levels, multi_apply
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


@MODELS.register_module()
class PredictingSSDHead(SSDHead):
    """SSDHead of MMDetection 3.3.0 fails at predicting, because it asks for an attribute that it never sets."""

    loss_cls = None


@MODELS.register_module()
class OneStageHead(RetinaHead):
    """RetinaNet's head, where wanted with one box regressor per class, and with OHEM in place of the focal loss.

    `negatives_per_positive` trains the classifier on all positive anchors and on the negatives with the highest loss in the batch, so
    many for each positive and as many for each picture, over all levels together (arXiv:1604.03540; the ratio is SSD's).
    """

    def __init__(
        self,
        *args: Any,
        per_class_regression: bool = False,
        negatives_per_positive: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.per_class_regression = per_class_regression
        self.negatives_per_positive = negatives_per_positive
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.per_class_regression:
            outputs = self.num_base_priors * self.num_classes * 4
            self.retina_reg = nn.Conv2d(self.feat_channels, outputs, 3, padding=1)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[Any],
        batch_img_metas: list[dict[str, Any]],
        batch_gt_instances_ignore: list[Any] | None = None,
    ) -> dict[str, list[Tensor]]:
        """As AnchorHead's, with the weights of easy negatives set to nothing where OHEM is wanted."""
        sizes = [tuple(scores.shape[-2:]) for scores in cls_scores]
        anchors, valid = self.get_anchors(sizes, batch_img_metas, device=cls_scores[0].device)
        labels, label_weights, box_targets, box_weights, positives = self.get_targets(
            anchors,
            valid,
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore=batch_gt_instances_ignore,
        )
        if self.negatives_per_positive is not None:
            label_weights = self._hard_examples(cls_scores, labels, label_weights)
        per_level = images_to_levels(
            [torch.cat(own) for own in anchors], [len(level) for level in anchors[0]]
        )
        levels = (
            cls_scores,
            bbox_preds,
            per_level,
            labels,
            label_weights,
            box_targets,
            box_weights,
        )
        losses_cls, losses_bbox = multi_apply(
            self.loss_by_feat_single, *levels, avg_factor=positives
        )
        return {"loss_cls": losses_cls, "loss_bbox": losses_bbox}

    def _hard_examples(
        self, cls_scores: list[Tensor], labels: list[Tensor], weights: list[Tensor]
    ) -> list[Tensor]:
        """`weights` (n, anchors) of each level, without those of the negatives that are easy."""
        assert self.negatives_per_positive is not None
        with torch.no_grad():
            hardness = torch.cat(
                [
                    binary_cross_entropy_with_logits(
                        scores, torch.zeros_like(scores), reduction="none"
                    )
                    .permute(0, 2, 3, 1)
                    .reshape(len(scores), -1, self.num_classes)
                    .sum(-1)
                    for scores in cls_scores
                ],
                dim=1,
            )
            label, weight = torch.cat(labels, dim=1), torch.cat(weights, dim=1)
            negative = (label == self.num_classes) & (weight > 0)
            positives = int(((label >= 0) & (label < self.num_classes)).sum())
            wanted = min(
                self.negatives_per_positive * (positives + len(label)), int(negative.sum())
            )
            order = (
                torch.where(negative, hardness, hardness.new_tensor(-1.0))
                .flatten()
                .topk(wanted)
                .indices
            )
            hard = torch.zeros_like(negative).flatten().index_fill(0, order, True).view_as(negative)
            weight = torch.where(negative & ~hard, torch.zeros_like(weight), weight)
        return list(weight.split([level.shape[1] for level in labels], dim=1))

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchors: Tensor,
        labels: Tensor,
        *rest: Any,
        **kwargs: Any,
    ) -> Any:
        """As AnchorHead's, of the regressor of each anchor's own class; what belongs to no class has no weight there."""
        if self.per_class_regression:
            images, _, height, width = bbox_pred.shape
            deltas = bbox_pred.permute(0, 2, 3, 1).reshape(-1, self.num_classes, 4)
            own = labels.reshape(-1).clamp(0, self.num_classes - 1)
            bbox_pred = (
                deltas[torch.arange(len(own), device=own.device), own]
                .view(images, height, width, -1)
                .permute(0, 3, 1, 2)
            )
        return super().loss_by_feat_single(cls_score, bbox_pred, anchors, labels, *rest, **kwargs)

    def _predict_by_feat_single(
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Any],
        mlvl_priors: list[Tensor],
        img_meta: dict[str, Any],
        cfg: Any,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """As BaseDenseHead's, with the box of each candidate's own class."""
        if not self.per_class_regression:
            return super()._predict_by_feat_single(
                cls_score_list,
                bbox_pred_list,
                score_factor_list,
                mlvl_priors,
                img_meta,
                cfg,
                rescale,
                with_nms,
            )
        cfg = cfg or self.test_cfg
        found = []
        for scores, deltas, priors in zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True):
            probabilities = scores.permute(1, 2, 0).reshape(-1, self.num_classes).sigmoid()
            candidates, labels, kept, _ = filter_scores_and_topk(
                probabilities, cfg.score_thr, cfg.nms_pre
            )
            own = deltas.permute(1, 2, 0).reshape(-1, self.num_classes, 4)[kept, labels]
            found.append((own, priors[kept], candidates, labels))
        own, priors, candidates, labels = (torch.cat(part) for part in zip(*found, strict=True))
        boxes = self.bbox_coder.decode(priors, own, max_shape=img_meta["img_shape"])
        results = InstanceData(bboxes=boxes, scores=candidates, labels=labels)
        return self._bbox_post_process(
            results=results, cfg=cfg, rescale=rescale, with_nms=with_nms, img_meta=img_meta
        )
