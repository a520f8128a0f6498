"""Families of transformers at the sizes of real ones: what generating costs, and where their morphs run.

    python examples/benchmarks/transformers_at_scale.py

Networks have stock configurations and random weights: nothing here depends on what they learned. Measured for each:
seconds to build the family, to make the coordinates of a size, to generate it and to morph, at half width and once at
two thirds of the depth, and the largest memory of the process; for the vision transformer of 5.7 M weights also
preparation, a training step beside a plain one, and whether each morph gives the same outputs in a process that cannot
import this library, in ONNX Runtime and as torch.export. Writes docs/results/transformers_at_scale.json and its figure.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import LlamaConfig, PreTrainedConfig, ViTConfig

from neumeta_hf import NeuMetaModel, SizeWarning, prepare
from neumeta_hf.evaluation import count_macs, count_parameters, environment_facts
from neumeta_hf.targets import find_target

ROOT = Path(__file__).parents[2]
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "ViT-tiny": lambda: ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768),
    "ViT-base": ViTConfig,
    # HuggingFaceTB/SmolLM2-135M.
    "Llama of 135 M": lambda: LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    ),
}
HYPERNETWORK = {"type": "grid", "positions": "absolute", "levels": 3}
TINY_SIZES: dict[str, dict[str, Any]] = {
    "1": {},
    "2/3": {"width": 2 / 3},
    "1/3": {"width": 1 / 3},
    "2/3, 8 of 12 layers": {"width": 2 / 3, "depth": 2 / 3},
    "1/3, 8 of 12 layers": {"width": 1 / 3, "depth": 2 / 3},
}
ALONE = """
import sys, json, torch
sys.modules["neumeta_hf"] = None
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
folder = sys.argv[1]
model = AutoModelForImageClassification.from_pretrained(folder).eval()
with torch.no_grad():
    logits = model(torch.load(folder + "/images.pt")).logits
from PIL import Image
labels = pipeline("image-classification", model=model, image_processor=AutoImageProcessor.from_pretrained(folder))
found = labels(Image.new("RGB", (300, 200), (200, 30, 60)))
print(json.dumps({"logits": logits.tolist(), "pipeline": len(found)}))
"""


def seconds(run: Callable[[], Any], *, rounds: int = 3) -> float:
    """The shortest of some runs, the first left out."""
    run()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return round(min(found), 4)


def gigabytes() -> float:
    """The largest memory that this process has had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def cost(name: str) -> dict[str, Any]:
    """Seconds and gigabytes of a family; in a process of its own, as memory is the most that one has had."""
    torch.manual_seed(0)
    config = CONFIGS[name]()
    target = find_target(config)
    network = target.build(config).eval()
    before, start = gigabytes(), time.perf_counter()
    family = NeuMetaModel.from_reference(
        network, hypernetwork=HYPERNETWORK, generated=["*"], normalization="keep", trained_widths=[0.25, 1.0]
    ).eval()
    built, half = time.perf_counter() - start, family.size_at(0.5)
    start = time.perf_counter()
    family.coordinates_at(half)
    plan = time.perf_counter() - start
    with torch.no_grad():
        generate = seconds(lambda: family.generate(half))
    return {
        "parameters": count_parameters(network),
        "hypernetwork": sum(parameter.numel() for parameter in family.hypernetwork.parameters()),
        "tensors": len(family.generated_names),
        "build_seconds": round(built, 3),
        "plan_seconds": round(plan, 3),
        "generate_seconds": generate,
        "morph_seconds": seconds(lambda: family.morph(0.5)),
        "shallow_morph_seconds": seconds(lambda: family.morph(0.5, depth=2 / 3)),
        "network_gigabytes": before,
        "gigabytes": gigabytes(),
    }


def vit_tiny(batch_size: int) -> dict[str, Any]:
    """Preparation, a training step and morphs of ViT-tiny."""
    import onnxruntime
    from transformers import ViTImageProcessorPil

    torch.manual_seed(0)
    config = CONFIGS["ViT-tiny"]()
    target = find_target(config)
    network = target.build(config).eval()
    start = time.perf_counter()
    prepared, report = prepare(network, normalization="keep", order="importance")
    found: dict[str, Any] = {
        "prepare_seconds": round(time.perf_counter() - start, 2),
        "prepare_error": report.max_relative_error,
    }
    family = NeuMetaModel.from_reference(
        prepared, hypernetwork=HYPERNETWORK, generated=["*"], normalization="keep", trained_widths=[1 / 3, 1.0]
    )
    images, labels = torch.randn(batch_size, 3, 224, 224), torch.randint(2, (batch_size,))
    plain = family.morph(2 / 3).train()

    def step(run: Callable[[], Any], parameters: Any) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)

        def go() -> None:
            torch.nn.functional.cross_entropy(run().logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return go

    family.train()
    of_family = seconds(step(lambda: family(images, width=2 / 3), family.parameters()))
    of_plain = seconds(step(lambda: plain(images), plain.parameters()))
    found["step_seconds"] = {"family": of_family, "plain": of_plain, "ratio": round(of_family / of_plain, 3)}
    family.eval()
    rows = {}
    images = images[:2]
    for name, where in TINY_SIZES.items():
        morph = family.morph(**where)
        with torch.no_grad():
            wanted = morph(images).logits
        with tempfile.TemporaryDirectory() as folder:
            morph.save_pretrained(folder)
            ViTImageProcessorPil().save_pretrained(folder)
            torch.save(images, f"{folder}/images.pt")
            output = subprocess.run(
                [sys.executable, "-c", ALONE, folder], capture_output=True, text=True, check=True
            ).stdout
            alone = json.loads(output.splitlines()[-1])
            torch.onnx.export(
                morph,
                (images,),
                f"{folder}/morph.onnx",
                input_names=["pixel_values"],
                output_names=["logits"],
                dynamic_shapes={"pixel_values": {0: "batch"}},
                dynamo=True,
                verbose=False,
            )
            (onnx,) = onnxruntime.InferenceSession(f"{folder}/morph.onnx").run(
                ["logits"], {"pixel_values": images.numpy()}
            )
        exported = torch.export.export(morph, (images,)).module()
        with torch.no_grad():
            program = exported(images).logits
        rows[name] = {
            "class": type(morph).__name__,
            "layers": morph.config.num_hidden_layers,
            "parameters": count_parameters(morph),
            "macs": count_macs(morph, {"pixel_values": images[:1]}, family=target),
            "error_alone": float((torch.tensor(alone["logits"]) - wanted).abs().max()),
            "pipeline_answers": alone["pipeline"],
            "error_onnx": float((torch.from_numpy(onnx) - wanted).abs().max()),
            "error_export": float((program - wanted).abs().max()),
        }
    return {**found, "morphs": rows}


def main() -> None:
    """Measure all, each in a process of its own, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16, help="of training steps; default: %(default)s")
    parser.add_argument("--output", default=str(ROOT / "docs/results/transformers_at_scale.json"))
    parser.add_argument("--cost-of", choices=CONFIGS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SizeWarning)
    if arguments.cost_of is not None:
        print(json.dumps(cost(arguments.cost_of)))
        return
    result: dict[str, Any] = {"facts": {**environment_facts("cpu"), "seed": 0}, "cost": {}}
    for name in CONFIGS:
        command = [sys.executable, __file__, "--cost-of", name]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result["cost"][name] = json.loads(output.splitlines()[-1])
        print(name, result["cost"][name], flush=True)
    result["ViT-tiny"] = vit_tiny(arguments.batch_size)
    print(json.dumps(result["ViT-tiny"], indent=1))
    Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result["cost"], Path(arguments.output).with_suffix(".png"))


def draw(costs: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw seconds against parameters."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    parameters = [row["parameters"] for row in costs.values()]
    for name in ("build", "generate", "morph"):
        axes.loglog(parameters, [row[f"{name}_seconds"] for row in costs.values()], "o-", label=name)
    for label, row in costs.items():
        axes.annotate(label, (row["parameters"], row["generate_seconds"]), xytext=(4, -10), textcoords="offset points")
    axes.set_xlabel("parameters of the network")
    axes.set_ylabel("seconds, width 0.5 (build: the family)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
