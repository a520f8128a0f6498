"""Training steps of families of common networks beside plain steps, on the device at hand.

    python examples/benchmarks/step_times.py --output outputs/step_times

A step of a family at one width generates the weights, runs the network of that width and trains the hypernetwork; the
plain step trains a network of that width. Both have one batch, AdamW and bfloat16 autocast, and are timed in turns.
Networks have stock configurations and random weights: nothing here depends on what they learned. With --small they are
small, to try the script on a CPU. Writes PREFIX.json and PREFIX.png and prints a table.
"""

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from speed import side_by_side
from torch import nn
from transformers import LlamaConfig, PreTrainedConfig, ResNetConfig, ViTConfig

from neumeta_hf import NeuMetaModel
from neumeta_hf.evaluation import count_parameters, environment_facts
from neumeta_hf.files import write_beside
from neumeta_hf.targets import find_target

HYPERNETWORK = {"type": "grid", "positions": "absolute", "levels": 3}
WIDTHS = (1.0, 0.5)


def resnet(small: bool) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """ResNet-18 and a batch for it."""
    sizes = [16, 32, 64, 128] if small else [64, 128, 256, 512]
    config = ResNetConfig(embedding_size=sizes[0], hidden_sizes=sizes, depths=[2, 2, 2, 2], layer_type="basic")
    batch, pixels = (4, 64) if small else (128, 224)
    return config, {"pixel_values": torch.randn(batch, 3, pixels, pixels), "labels": torch.randint(2, (batch,))}


def vit(small: bool) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """ViT-base and a batch for it."""
    narrow = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "num_hidden_layers": 2}
    batch = 4 if small else 64
    images = torch.randn(batch, 3, 224, 224)
    return ViTConfig(**(narrow if small else {})), {"pixel_values": images, "labels": torch.randint(2, (batch,))}


def llama(small: bool) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """A Llama of the size of SmolLM2-135M and a batch for it."""
    config = LlamaConfig(
        vocab_size=512 if small else 49152,
        hidden_size=72 if small else 576,
        intermediate_size=192 if small else 1536,
        num_hidden_layers=2 if small else 30,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=8 if small else 72,
        tie_word_embeddings=True,
    )
    tokens = torch.randint(config.vocab_size, (2, 64) if small else (8, 512))
    return config, {"input_ids": tokens, "labels": tokens}


NETWORKS: dict[str, Callable[[bool], tuple[PreTrainedConfig, dict[str, torch.Tensor]]]] = {
    "ResNet-18, 128 images": resnet,
    "ViT-base, 64 images": vit,
    "Llama of 135 M, 4,096 tokens": llama,
}


def make_step(module: nn.Module, run: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    """A training step, as a function that returns when the device is done."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = run().loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def measure(build: Callable, device: torch.device, *, small: bool, repeats: int) -> list[dict[str, Any]]:
    """Rows of one network, one a width."""
    torch.manual_seed(0)
    config, batch = build(small)
    family = NeuMetaModel.from_reference(
        find_target(config).build(config),
        hypernetwork=HYPERNETWORK,
        generated=["*"],
        normalization="keep",
        trained_widths=[0.25, 1.0],
    )
    family = family.to(device).train()
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    rows = []
    for width in WIDTHS:
        plain = family.target_family.build(family.target_config_at(width)).to(device).train()
        steps = {
            "family": make_step(family, lambda width=width: family(**batch, width=width), device),
            "plain": make_step(plain, lambda plain=plain: plain(**batch), device),
        }
        memory = {}
        for name, step in steps.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            for _ in range(3):
                step()
            memory[name] = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
        seconds = {name: round(value, 5) for name, value in side_by_side(steps, repeats=repeats).items()}
        rows.append(
            {
                "width": width,
                "num_parameters": count_parameters(plain),
                "hypernetwork_parameters": count_parameters(family.hypernetwork),
                "seconds": seconds,
                "ratio": round(seconds["family"] / seconds["plain"], 3),
                "gigabytes": memory,
            }
        )
        del plain, steps
        gc.collect()
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the seconds of both steps, in pairs."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    labels = [f"{row['network'].split(',')[0]}\nwidth {row['width']:g}" for row in rows]
    for shift, name, colour in ((-0.2, "plain", "#777777"), (0.2, "family", "#1f5fa8")):
        places = [index + shift for index in range(len(rows))]
        bars = axes.bar(places, [1000 * row["seconds"][name] for row in rows], 0.38, color=colour, label=name)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.set_xticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylabel("milliseconds of a training step")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150, format="png")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--small", action="store_true", help="small networks, to try the script")
    parser.add_argument("--output", default="outputs/step_times", help="PREFIX of the files; default: %(default)s")
    return parser


def main() -> None:
    """Measure, print, write."""
    arguments = build_parser().parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    table = Table("network", "width", "family (s)", "plain (s)", "ratio", "family (GB)", "plain (GB)")
    for name, build in NETWORKS.items():
        for row in measure(build, device, small=arguments.small, repeats=arguments.repeats):
            rows.append({"network": name, **row})
            seconds, memory = row["seconds"], row["gigabytes"]
            gigabytes = ["" if memory[which] is None else f"{memory[which]:.1f}" for which in ("family", "plain")]
            table.add_row(
                name, f"{row['width']:g}", f"{seconds['family']:.4f}", f"{seconds['plain']:.4f}", f"{row['ratio']:.2f}",
                *gigabytes,
            )  # fmt: skip
    Console().print(table)
    prefix = Path(arguments.output)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    result = {"facts": {**environment_facts(device), "seed": 0, "mixed_precision": "bf16"}, "rows": rows}
    with write_beside(prefix.with_name(prefix.name + ".json")) as beside:
        beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    with write_beside(prefix.with_name(prefix.name + ".png")) as beside:
        draw(rows, beside)


if __name__ == "__main__":
    main()
