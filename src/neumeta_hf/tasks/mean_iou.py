"""Mean intersection over union as an `evaluate.Metric` that ships with the package."""

import datasets
import evaluate
import numpy as np


class MeanIoU(evaluate.Metric):
    """Intersection over union of each class over all pixels of all images together, and its mean.

    A class that neither the references nor the predictions hold has no part in the mean. `compute` takes `num_labels`
    and `ignore_index`, the reference label of pixels that do not count.
    """

    def _info(self) -> evaluate.MetricInfo:
        masks = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))
        return evaluate.MetricInfo(
            description="Mean intersection over union of a data set, not the mean over its images.",
            citation="",
            inputs_description="predictions: class of each pixel; references: class of each pixel, or ignore_index.",
            features=datasets.Features({"predictions": masks, "references": masks}),
        )

    def _compute(self, *, predictions, references, num_labels: int, ignore_index: int = 255) -> dict:
        confusion = np.zeros((num_labels, num_labels), dtype=np.int64)
        for predicted, true in zip(predictions, references, strict=True):
            predicted, true = np.asarray(predicted, dtype=np.int64), np.asarray(true, dtype=np.int64)
            counted = true != ignore_index
            pairs = true[counted] * num_labels + predicted[counted]
            confusion += np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)
        both = np.diag(confusion)
        either = confusion.sum(0) + confusion.sum(1) - both
        with np.errstate(invalid="ignore"):  # 0 / 0: the class does not occur
            ious = both / either
        return {
            "mean_iou": float(np.nanmean(ious)) if either.any() else float("nan"),
            "pixel_accuracy": float(both.sum() / confusion.sum()) if confusion.sum() else float("nan"),
            "per_class_iou": [float(iou) for iou in ious],
        }
