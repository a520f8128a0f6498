"""Give parts of a network widths of their own: by name, by pattern, as a ratio or as a number of channels.

    python examples/by_feature/per_axis.py

Takes the family that comes with the package, and measures each size on the digits' test images; a few seconds.
"""

import sys
from typing import Any

import torch

import neumeta_hf
from neumeta_hf import NeuMetaModel, load_image_data, load_recipe

SIZES: dict[str, dict[str, Any]] = {
    "everything at half": {"width": 0.5},
    "conv3 at a quarter": {"width": {"conv3": 0.25}},
    "conv1 and conv2 at half": {"width": {"conv[12]": 0.5}},
    "10 channels in conv1": {"size": {"conv1": 10}},
    "10, 20 and 30 channels": {"size": {"conv1": 10, "conv2": 20, "conv3": 30}},
}


def main() -> int:
    """Morph and measure each size."""
    folder = neumeta_hf.example("digits-lenet")
    family = NeuMetaModel.from_pretrained(folder)
    test = load_image_data(load_recipe(folder / "recipe.yaml", []).data).test
    batch = test.__getitems__(list(range(len(test))))
    print(f"axes: {', '.join(f'{name} (1 to {family.space.axes[name].full})' for name in family.width_groups)}")
    for name, asked in SIZES.items():
        network = family.morph(**asked)
        with torch.no_grad():
            right = network(batch["pixel_values"]).logits.argmax(-1) == batch["labels"]
        channels = ", ".join(map(str, network.config.hidden_channels))
        print(f"{name}: channels {channels}, {network.num_parameters():,} parameters, {right.float().mean():.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
