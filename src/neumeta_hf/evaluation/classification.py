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
    batch_size: int = 512,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    progress: bool = False,
) -> dict[str, float]:
    """Measure a classifier, in evaluation mode and its own precision; the mode of every module is restored.

    Args:
        model: Takes `pixel_values` and returns an output with `logits`, `[batch, classes]`; moved to `device`.
        split: The images.
        batch_size: Images per forward pass.
        device: Where to run. None: where the model is.
        num_workers: Processes that load data.
        progress: Whether to show a progress bar.

    Returns:
        "accuracy" as a ratio, "loss" (mean cross-entropy, in nats) and "num_samples".

    Raises:
        DataError: The split is empty, or has more classes than the model.
    """
    if len(split) == 0:
        raise DataError(
            f"the {split.name} split is empty, so there is nothing to measure: for validation set "
            "data.validation_fraction above 0, or name data.validation_split."
        )
    parameter = next(model.parameters(), torch.empty(0))
    device = torch.device(device) if device is not None else parameter.device
    # Convolutions are about twice as fast so; anything else may count on the usual layout.
    has_convolutions = any(isinstance(module, nn.Conv2d) for module in model.modules())
    layout = torch.channels_last if has_convolutions else torch.contiguous_format
    loader = DataLoader(split, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)
    metric = Accuracy(keep_in_memory=True)
    was_training = {module: module.training for module in model.modules()}
    model.to(device).eval()
    loss = 0.0
    try:
        with torch.inference_mode():
            for batch in tqdm(loader, desc=split.name, disable=not progress, leave=False):
                images = batch["pixel_values"].to(device, parameter.dtype).contiguous(memory_format=layout)
                labels = batch["labels"].to(device)
                logits = model(pixel_values=images).logits.float()
                if (largest := int(labels.max())) >= logits.shape[-1]:
                    raise DataError(
                        f"the {split.name} split holds class {largest}, and the model tells {logits.shape[-1]} classes "
                        "apart (0 is the first): measure it on the data set that it was trained on."
                    )
                loss += F.cross_entropy(logits, labels, reduction="sum").item()
                metric.add_batch(predictions=logits.argmax(-1).cpu().numpy(), references=labels.cpu().numpy())
    finally:
        for module, training in was_training.items():
            module.training = training
    scores = metric.compute()
    assert scores is not None
    return {"accuracy": scores["accuracy"], "loss": loss / len(split), "num_samples": len(split)}
