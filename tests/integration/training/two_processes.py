"""What test_processes.py runs in each of two processes: `python two_processes.py FOLDER`."""

import contextlib
import copy
import json
import os
import signal
import sys
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny_runs import DATA, RECIPE, reset_accelerate
from torch import nn

from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.data.text_streams import stream_text_data
from neumeta_hf.data.tokenization import character_tokenizer
from neumeta_hf.errors import DataError
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.targets import LeNetConfig, find_target
from neumeta_hf.training import NeuMetaObjective, SizeSampler, recipe_from_dict, run, train
from neumeta_hf.training.loop import StoppedEarly, TrainingLoop
from neumeta_hf.training.processes import share
from neumeta_hf.training.recipe import LoopRecipe, LossesRecipe, OptimizerRecipe, ScheduleRecipe
from neumeta_hf.training.signals import StopSignals

JOINT_BATCH = 32


def make_loop(folder: Path, accelerator: Accelerator, *, name: str, epochs: int = 1, signals=None) -> TrainingLoop:
    """Training on 3 joint batches an epoch, without noise."""
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=10)
    reference = find_target(config).build(config).eval()
    family = NeuMetaForImageClassification.from_reference(
        reference, trained_widths=[0.5, 1.0], coordinate_noise=0.0, hypernetwork=RECIPE["family"]["hypernetwork"]
    )
    data = load_image_data(DataConfig(**DATA))
    return TrainingLoop(
        NeuMetaObjective(
            family,
            reference,
            losses=LossesRecipe(distillation=1.0),
            sampler=SizeSampler([0.5, 0.75, 1.0], sampler="sandwich", num_random=1, seed=0),
            seed=0,
            rank=accelerator.process_index,
        ),
        data.train.subset(3 * JOINT_BATCH, seed=0),
        LoopRecipe(
            epochs=epochs,
            batch_size=JOINT_BATCH // accelerator.num_processes,
            optimizer=OptimizerRecipe(name="sgd", learning_rate=0.05),
            schedule=ScheduleRecipe(name="one_cycle"),
            ema_decay=0.5,
            clip=1.0,
        ),
        accelerator=accelerator,
        seed=0,
        state_dir=folder / f"state-{name}",
        validate=lambda: (0.0, {}),
        keep=lambda is_best: None,
        name=name,
        signals=signals,
    )


def save_weights(loop: TrainingLoop, path: Path) -> None:
    """Every process's weights, trained and averaged."""
    tensors = {name: tensor.contiguous() for name, tensor in loop.plain_objective.model.state_dict().items()}
    tensors |= {f"average.{index}": tensor for index, tensor in enumerate(loop.average.tensors)}
    save_file(tensors, path)


def three_steps(folder: Path, accelerator: Accelerator) -> None:
    """Train for an epoch."""
    loop = make_loop(folder, accelerator, name=f"three-{accelerator.num_processes}")
    assert loop.run().step == 3
    save_weights(loop, folder / f"three-{accelerator.num_processes}-{accelerator.process_index}.safetensors")


def one_is_told_to_stop(folder: Path, accelerator: Accelerator) -> None:
    """Train for two epochs, whole, and stopped by a signal that one process alone receives, and resumed."""
    rank = accelerator.process_index
    whole = make_loop(folder, accelerator, name="whole", epochs=2)
    whole.run()
    save_weights(whole, folder / f"whole-{rank}.safetensors")
    with StopSignals() as signals:
        loop = make_loop(folder, accelerator, name="parts", epochs=2, signals=signals)

        def tell(*_) -> None:
            if rank == 1 and loop.progress.step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        loop.plain_objective.register_forward_hook(tell)
        try:
            loop.run()
        except StoppedEarly:
            stopped = [loop.progress.step, signals.received]
    (folder / f"stopped-{rank}.json").write_text(json.dumps(stopped))
    again = make_loop(folder, accelerator, name="parts", epochs=2)
    again.run(resume=True)
    save_weights(again, folder / f"parts-{rank}.safetensors")


def work_is_shared(folder: Path, accelerator: Accelerator) -> None:
    """Share work that differs by process, that is too little for all, and that fails on one alone."""
    rank = accelerator.process_index
    found = [share(accelerator, items, lambda mine: [[item, rank] for item in mine]) for items in ("abcde", "a", "")]

    def fail(mine: list[int]) -> list[int]:
        if rank == 1:
            raise DataError("of the second process")
        return mine

    try:
        share(accelerator, [1, 2, 3], fail)
    except DataError as error:
        found.append(str(error))
    (folder / f"shared-{rank}.json").write_text(json.dumps(found))


class FirstToken(nn.Module):
    """A loss of blocks of text that notes which blocks it saw."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Embedding(12, 1)
        self.seen = []

    def forward(self, *, input_ids, step, **_):
        self.seen += input_ids.tolist()
        return {"loss": self.model(input_ids).square().mean()}


def a_stream_is_shared(folder: Path, accelerator: Accelerator) -> None:
    """Train on a stream, whole, and stopped inside of a part and resumed."""
    rank = accelerator.process_index
    texts = [f"{number:04d}" for number in range(64)]  # a block each
    if accelerator.is_main_process:
        for split in ("train", "validation", "test"):
            datasets.Dataset.from_dict({"text": texts}).to_parquet(folder / "texts" / f"{split}.parquet")
    accelerator.wait_for_everyone()
    config = DataConfig(
        dataset=str(folder / "texts"), streaming=True, validation_split="validation", block_size=5, shuffle_blocks=8
    )
    split = stream_text_data(config, character_tokenizer(["0123456789"])).train

    def make(name: str, **changed) -> tuple[TrainingLoop, FirstToken]:
        objective = FirstToken()
        loop = TrainingLoop(
            objective,
            split,
            LoopRecipe(epochs=2, max_steps=8, batch_size=4, **changed),
            accelerator=accelerator,
            seed=0,
            state_dir=folder / f"stream-{name}",
            validate=lambda: (0.0, {}),
            keep=lambda is_best: None,
            name=name,
        )
        return loop, objective

    loop, whole = make("whole")
    loop.run()
    loop, first = make("parts", stop_after_steps=3)
    with contextlib.suppress(StoppedEarly):
        loop.run()
    loop, rest = make("parts")
    loop.run(resume=True)
    parts = first.seen + rest.seen
    (folder / f"stream-{rank}.json").write_text(json.dumps({"whole": whole.seen, "parts": parts}))
    weights = {"whole": whole.model.weight, "parts": rest.model.weight}
    save_file({name: weight.detach() for name, weight in weights.items()}, folder / f"stream-{rank}.safetensors")


def whole_run(folder: Path, rank: int) -> None:
    """A run from data to checkpoint, and what every process drew and ended with."""
    draws = []
    generate = NeuMetaForImageClassification.generate

    def record(self, width=1.0, **options):
        if self.training and torch.is_grad_enabled():
            draws.append([dict(self.size_at(width)), options])
        return generate(self, width, **options)

    NeuMetaForImageClassification.generate = record
    loops = []
    train_loop = run.TrainingLoop.run

    def keep_loop(self, **options):
        loops.append(self)
        return train_loop(self, **options)

    run.TrainingLoop.run = keep_loop
    values = copy.deepcopy({**RECIPE, "output_dir": str(folder / "run")})
    values["train"] |= {"epochs": 1, "batch_size": 100}
    values["target"]["config"]["batch_norm"] = True
    values["preparation"] = {"normalization": "keep"}
    values["calibration"] = {"images": 8, "networks": 3, "steps": 2}
    reset_accelerate()
    assert train(recipe_from_dict(values)) is not None
    (folder / f"draws-{rank}.json").write_text(json.dumps(draws))
    parameters = dict(loops[-1].plain_objective.named_parameters())
    tensors = {name: parameter.detach().contiguous() for name, parameter in parameters.items()}
    save_file(tensors, folder / f"run-{rank}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    output = Path(sys.argv[1])
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    three_steps(output, accelerator)
    one_is_told_to_stop(output, accelerator)
    work_is_shared(output, accelerator)
    a_stream_is_shared(output, accelerator)
    whole_run(output, accelerator.process_index)
