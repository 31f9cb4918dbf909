"""Heads that MMDetection lacks, or ships broken."""

from collections.abc import Mapping

import torch
from mmdet.models.dense_heads import RetinaHead, SSDHead
from mmdet.models.utils import filter_scores_and_topk, images_to_levels, multi_apply
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


@MODELS.register_module()
class PredictingSSDHead(SSDHead):
    """SSD's head, which can predict.

    SSDHead of MMDetection 3.3.0 fails at that: it reads `loss_cls`, which it never sets.
    """

    loss_cls = None


@MODELS.register_module()
class OneStageHead(RetinaHead):
    """RetinaNet's head with two options: one box regressor per class, and OHEM for the focal loss.

    `per_class_regression` gives each class a regressor of its own: `retina_reg` has
    (anchors * classes * 4) channels, in this order.

    `negatives_per_positive` trains the classifier on all positive anchors, and of the negative ones
    only on those with the highest loss in the batch, over all levels together: so many for each
    positive, and as many for each image (OHEM, arXiv:1604.03540; the ratio is SSD's).
    """

    def __init__(
        self,
        *args: object,
        per_class_regression: bool = False,
        negatives_per_positive: int | None = None,
        **kwargs: object,
    ) -> None:
        # Before MMDetection's __init__, which calls _init_layers.
        self.per_class_regression = per_class_regression
        self.negatives_per_positive = negatives_per_positive
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.per_class_regression:
            channels = self.num_base_priors * self.num_classes * 4
            self.retina_reg = nn.Conv2d(self.feat_channels, channels, 3, padding=1)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict[str, object]],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, list[Tensor]]:
        """Return the losses of each level.

        This is AnchorHead.loss_by_feat of MMDetection 3.3.0, but for the weights of easy negatives,
        which OHEM sets to 0.
        """
        map_sizes = [tuple(scores.shape[-2:]) for scores in cls_scores]
        anchors, valid = self.get_anchors(map_sizes, batch_img_metas, device=cls_scores[0].device)
        labels, label_weights, box_targets, box_weights, avg_factor = self.get_targets(
            anchors,
            valid,
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore=batch_gt_instances_ignore,
        )

        if self.negatives_per_positive is not None:
            label_weights = self._drop_easy_negatives(
                cls_scores, labels, label_weights, self.negatives_per_positive
            )

        anchors_of_level = [len(level) for level in anchors[0]]
        anchors_of_image = [torch.cat(levels) for levels in anchors]
        losses_cls, losses_bbox = multi_apply(
            self.loss_by_feat_single,
            cls_scores,
            bbox_preds,
            images_to_levels(anchors_of_image, anchors_of_level),
            labels,
            label_weights,
            box_targets,
            box_weights,
            avg_factor=avg_factor,
        )
        return {"loss_cls": losses_cls, "loss_bbox": losses_bbox}

    def _drop_easy_negatives(
        self,
        cls_scores: list[Tensor],
        labels: list[Tensor],
        weights: list[Tensor],
        negatives_per_positive: int,
    ) -> list[Tensor]:
        """Return `weights` (images, anchors) of each level, with 0 for the easy negatives."""
        label = torch.cat(labels, dim=1)
        weight = torch.cat(weights, dim=1)
        is_positive = (label >= 0) & (label < self.num_classes)
        is_negative = (label == self.num_classes) & (weight > 0)

        images = len(label)
        wanted = negatives_per_positive * (int(is_positive.sum()) + images)
        wanted = min(wanted, int(is_negative.sum()))

        # -1 is below every loss, so that nothing but negatives is among the hardest.
        loss = torch.where(is_negative, self._compute_negative_loss(cls_scores), -1.0)
        hardest = loss.flatten().topk(wanted).indices

        is_hard = torch.zeros_like(is_negative).flatten()
        is_hard = is_hard.index_fill(0, hardest, True).view_as(is_negative)
        weight = torch.where(is_negative & ~is_hard, torch.zeros_like(weight), weight)

        anchors_of_level = [level.shape[1] for level in labels]
        return list(weight.split(anchors_of_level, dim=1))

    @torch.no_grad()
    def _compute_negative_loss(self, cls_scores: list[Tensor]) -> Tensor:
        """Return the loss (images, anchors of all levels) of each anchor if it were negative."""
        losses = []
        for scores in cls_scores:
            nothing = torch.zeros_like(scores)
            loss = binary_cross_entropy_with_logits(scores, nothing, reduction="none")
            by_class = loss.permute(0, 2, 3, 1).reshape(len(scores), -1, self.num_classes)
            losses.append(by_class.sum(-1))
        return torch.cat(losses, dim=1)

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchors: Tensor,
        labels: Tensor,
        *rest: Tensor,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Return AnchorHead's losses of one level, with the boxes of each anchor's own class."""
        if self.per_class_regression:
            bbox_pred = self._select_boxes_of_labels(bbox_pred, labels)
        return super().loss_by_feat_single(cls_score, bbox_pred, anchors, labels, *rest, **kwargs)

    def _select_boxes_of_labels(self, bbox_pred: Tensor, labels: Tensor) -> Tensor:
        """Return the deltas (n, anchors * 4, h, w) of `labels` (n, h * w * anchors).

        Anchors without a class get those of the last class; their boxes have no weight in the loss.
        """
        images, _, height, width = bbox_pred.shape
        deltas = bbox_pred.permute(0, 2, 3, 1).reshape(-1, self.num_classes, 4)
        classes = labels.reshape(-1).clamp(0, self.num_classes - 1)

        every_anchor = torch.arange(len(classes), device=classes.device)
        own_deltas = deltas[every_anchor, classes]
        return own_deltas.view(images, height, width, -1).permute(0, 3, 1, 2)

    def _predict_by_feat_single(  # noqa: PLR0913  MMDetection's signature
        self,
        cls_score_list: list[Tensor],
        bbox_pred_list: list[Tensor],
        score_factor_list: list[Tensor],
        mlvl_priors: list[Tensor],
        img_meta: Mapping[str, object],
        cfg: ConfigDict | None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Return the detections of one image, each with the box of its own class.

        It mirrors BaseDenseHead._predict_by_feat_single of MMDetection 3.3.0.
        """
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
        levels = zip(cls_score_list, bbox_pred_list, mlvl_priors, strict=True)
        candidates = InstanceData.cat([self._select_candidates(*level, cfg) for level in levels])

        boxes = self.bbox_coder.decode(
            candidates.priors, candidates.deltas, max_shape=img_meta["img_shape"]
        )
        results = InstanceData(bboxes=boxes, scores=candidates.scores, labels=candidates.labels)
        return self._bbox_post_process(
            results=results, cfg=cfg, rescale=rescale, with_nms=with_nms, img_meta=img_meta
        )

    def _select_candidates(
        self, cls_scores: Tensor, bbox_preds: Tensor, priors: Tensor, cfg: ConfigDict
    ) -> InstanceData:
        """Return the best of one level: priors and deltas (k, 4), scores and labels (k,)."""
        probabilities = cls_scores.permute(1, 2, 0).reshape(-1, self.num_classes).sigmoid()
        scores, labels, indices, _ = filter_scores_and_topk(
            probabilities, cfg.score_thr, cfg.nms_pre
        )

        deltas = bbox_preds.permute(1, 2, 0).reshape(-1, self.num_classes, 4)
        return InstanceData(
            priors=priors[indices], deltas=deltas[indices, labels], scores=scores, labels=labels
        )
