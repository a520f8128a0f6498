"""Accuracy and loss of a plain classifier on a split."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from neumeta_hf.data import ImageSplit, collate
from neumeta_hf.errors import DataError
from neumeta_hf.evaluation.metrics import Accuracy


def evaluate_classifier(
    model: nn.Module,
    split: ImageSplit,
    *,
    batch_size: int = 500,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    progress: bool = False,
) -> dict[str, float]:
    """Measure a classifier, in evaluation mode and full precision; its mode is restored.

    Args:
        model: Takes `pixel_values` and returns an output with `logits`, `[batch, classes]`.
        split: The images.
        batch_size: Images per forward pass.
        device: Where to run. None: where the model is.
        num_workers: Processes that load data.
        progress: Whether to show a progress bar.

    Returns:
        "accuracy" as a ratio, "loss" (mean cross-entropy, in nats) and "num_samples".

    Raises:
        DataError: The split is empty.
    """
    if len(split) == 0:
        raise DataError(f"the {split.name} split is empty: raise data.validation_fraction, or name data.validation_split.")
    if device is None:
        device = next(model.parameters()).device
    loader = DataLoader(split, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)
    metric = Accuracy(keep_in_memory=True)
    was_training = model.training
    model.to(device).eval()
    loss = 0.0
    try:
        with torch.inference_mode():
            for batch in tqdm(loader, desc=split.name, disable=not progress, leave=False):
                images = batch["pixel_values"].to(device).contiguous(memory_format=torch.channels_last)
                labels = batch["labels"].to(device)
                logits = model(pixel_values=images).logits.float()
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                metric.add_batch(predictions=logits.argmax(-1).cpu().numpy(), references=labels.cpu().numpy())
    finally:
        model.train(was_training)
    scores = metric.compute()
    assert scores is not None
    return {"accuracy": scores["accuracy"], "loss": loss / len(split), "num_samples": len(split)}
