import evaluate
import numpy as np
import pytest
import torch

from neumeta_hf.tasks import accuracy
from neumeta_hf.tasks.accuracy import Accuracy


def test_accuracy_is_the_share_of_equal_pairs():
    metric = Accuracy(keep_in_memory=True)
    assert metric.compute(predictions=[0, 1, 2, 2], references=[0, 1, 1, 2]) == {"accuracy": 0.75}


def test_batches_of_any_kind_add_up():
    metric = Accuracy(keep_in_memory=True)
    metric.add_batch(predictions=torch.tensor([1, 0]), references=torch.tensor([1, 1]))
    metric.add_batch(predictions=np.array([3]), references=[3])
    assert metric.compute()["accuracy"] == pytest.approx(2 / 3)


def test_its_file_loads_as_a_metric_of_evaluate(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path)
    metric = evaluate.load(accuracy.__file__, keep_in_memory=True)
    assert metric.compute(predictions=[1, 2], references=[1, 1]) == {"accuracy": 0.5}
