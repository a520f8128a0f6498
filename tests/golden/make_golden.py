"""Wrote the checkpoints of format 1 that tests read for ever, with what they gave then.

    PYTHONPATH=tests python tests/golden/make_golden.py tests/golden

What was made with it is not made again: that it loads, and gives the same, is what is tested.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from neumeta_hf.family_sizes import ignore_size_warnings
from neumeta_hf.modeling_tasks import family_class
from neumeta_hf.preparation import prepare
from neumeta_hf.targets import AutoencoderKLTargetConfig, find_target
from tiny_targets import cifar_resnet, lenet, make_network, upernet

GRID = {"type": "grid", "positions": "absolute", "levels": 3}
RELATIVE = {"type": "grid", "positions": "relative", "levels": 2}
INR = {"type": "inr", "hidden_size": 8, "num_hidden_layers": 2, "num_frequencies": 4}

# Config of the target, options of the family, and the sizes that are compared.
CASES = {
    "lenet_fused": (
        lambda: lenet(batch_norm=True),
        {"normalization": "fuse", "hypernetwork": RELATIVE, "coordinate_noise": 0.5},
        [1.0, 0.75, 0.5, 0.3, {"conv1": 0.5, "conv3": 0.75}],
    ),
    "cifar_resnet_kept": (
        lambda: cifar_resnet(stage_channels=[8, 12, 16]),
        {"normalization": "keep", "hypernetwork": GRID, "coordinate_noise": 0.0},
        [1.0, 0.75, 0.5, 0.97, {"stage3": 0.5, "stage2.block1": 0.25}],
    ),
    "upernet": (
        lambda: upernet(image_size=[16, 24]),
        {"normalization": "fuse", "hypernetwork": GRID, "coordinate_noise": 0.0},
        [1.0, 0.75, 0.5, 0.3, {"backbone.stage3": 0.5, "head": 0.75}],
    ),
    "autoencoder_kl": (
        lambda: AutoencoderKLTargetConfig(
            image_size=8,
            num_channels=1,
            vae={"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 2},
        ),
        {"normalization": "keep", "hypernetwork": INR, "coordinate_noise": 1.0, "generated": ["decoder"]},
        [1.0, 0.5, 0.75, 0.25, 0.6],
    ),
}


def digest(tensors):
    """A checksum of tensors, with their names and shapes."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def look(model, images, size):
    """What a family makes of a size: checksums of its weights, exact and noisy, and what its network puts out."""
    with ignore_size_warnings(), torch.no_grad():
        morph = model.morph(size)
        outputs = find_target(model.reference_config).forward(morph, images)
        noisy = model.generate(size, noise=1.0, num_samples=2, seed=3)
    digests = {"state": digest(morph.state_dict()), "noisy": digest(noisy)}
    return digests, {key: value for key, value in outputs.items() if isinstance(value, torch.Tensor)}


def make(folder, config, options, sizes):
    """Write a family and what its networks are at some sizes."""
    reference = make_network(config)
    family = find_target(config)
    reference, report = prepare(reference.eval(), normalization=options["normalization"], order="importance", seed=0)
    torch.manual_seed(0)
    model = family_class(family.task).from_reference(
        reference, trained_widths=[0.5, 0.75, 1.0], preparation=report.to_dict(), **options
    )
    with torch.no_grad():  # as after training: no value is where it started
        generator = torch.Generator().manual_seed(1)
        for parameter in model.hypernetwork.parameters():
            scale = 0.1 * parameter.abs().mean()
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    images = family.example_batch(config, 8)["pixel_values"]
    if model.statistic_names:
        model.calibrate([images], [0.5, 0.75, 0.94, 1.0])
        model.store_calibration_images(images.clamp(-3.9, 3.9))
    model.eval().save_pretrained(folder)
    expected, rows = {"images": images[:2].contiguous()}, []
    for number, size in enumerate(sizes):
        digests, outputs = look(model, expected["images"], size)
        rows.append({"size": size, **digests})
        expected |= {f"{number}.{key}": tensor.contiguous() for key, tensor in outputs.items()}
    save_file(expected, folder / "expected.safetensors")
    facts = {"capability": torch.backends.cpu.get_cpu_capability(), "sizes": rows}
    (folder / "expected.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name, (make_config, options, sizes) in CASES.items():
        make(Path(sys.argv[1]) / name, make_config(), options, sizes)
