"""Measure BatchNorm statistics: a size that has none stored takes them from the checkpoint's images or from yours.

    python examples/by_feature/batchnorm_statistics.py

Takes the family that comes with the package, which keeps BatchNorm. It stores statistics for uniform widths; a size
with a width of its own per layer measures them when it is made. A few seconds.
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

import neumeta_hf
from neumeta_hf import NeuMetaModel, calibrate, load_image_data, load_recipe
from neumeta_hf.data import collate

SIZE = {"conv1": 0.9, "conv2": 0.4, "conv3": 0.7}


@torch.no_grad()
def measure(network: nn.Module, test: DataLoader) -> float:
    """Accuracy on the test images."""
    right = [network(batch["pixel_values"]).logits.argmax(-1) == batch["labels"] for batch in test]
    return torch.cat(right).float().mean().item()


def main() -> int:
    """Compare the ways, for one size."""
    folder = neumeta_hf.example("digits-lenet")
    family = NeuMetaModel.from_pretrained(folder)
    data = load_image_data(load_recipe(folder / "recipe.yaml", []).data)
    # As training saw the images, augmentation included; they may hold labels beside, which nothing reads.
    batches = DataLoader(data.train, 256, collate_fn=collate)
    test = DataLoader(data.test, 256, collate_fn=collate)

    network = family.morph(width=SIZE)  # on the images in the checkpoint
    print(f"on the checkpoint's own {family.config.calibration_images} images: {measure(network, test):.1%}")
    network = family.morph(width=SIZE, calibration=batches)
    print(f"on {len(data.train)} training images: {measure(network, test):.1%}")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    print(f"without statistics: {measure(network, test):.1%}")
    calibrate(network, batches)  # of any network with BatchNorm
    print(f"measured again: {measure(network, test):.1%}")
    family.calibrate(batches)  # anew, for all uniform widths that the checkpoint stores
    print(f"width 0.5, its stored statistics measured anew: {measure(family.morph(width=0.5), test):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
