"""Top-1 accuracy as an `evaluate.Metric` that ships with the package, so that it works without a network."""

import datasets
import evaluate
import numpy as np


class Accuracy(evaluate.Metric):
    """Share of images whose highest logit is their class (top-1)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Top-1 accuracy: the share of predictions that equal their reference.",
            citation="",
            inputs_description="predictions: class numbers; references: class numbers.",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, *, predictions, references) -> dict[str, float]:
        return {"accuracy": float((np.asarray(predictions) == np.asarray(references)).mean())}
