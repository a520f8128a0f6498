"""What test_processes.py runs in each of two processes: `python two_processes.py FOLDER`."""

import copy
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from tiny_runs import DATA, RECIPE, reset_accelerate

from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.modeling_neumeta import NeuMetaForImageClassification
from neumeta_hf.targets import LeNetConfig, find_target
from neumeta_hf.training import NeuMetaObjective, SizeSampler, recipe_from_dict, run, train
from neumeta_hf.training.loop import TrainingLoop
from neumeta_hf.training.recipe import LoopRecipe, LossesRecipe, OptimizerRecipe, ScheduleRecipe

JOINT_BATCH = 32


def three_steps(folder: Path, accelerator: Accelerator) -> None:
    """Train on 3 joint batches without noise, and save every process's weights, trained and averaged."""
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=8, num_labels=10)
    reference = find_target(config).build(config).eval()
    family = NeuMetaForImageClassification.from_reference(
        reference, trained_widths=[0.5, 1.0], coordinate_noise=0.0, hypernetwork=RECIPE["family"]["hypernetwork"]
    )
    data = load_image_data(DataConfig(**DATA))
    loop = TrainingLoop(
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
            epochs=1,
            batch_size=JOINT_BATCH // accelerator.num_processes,
            optimizer=OptimizerRecipe(name="sgd", learning_rate=0.05),
            schedule=ScheduleRecipe(name="one_cycle"),
            ema_decay=0.5,
            clip=1.0,
        ),
        accelerator=accelerator,
        seed=0,
        state_dir=folder / f"state-{accelerator.num_processes}",
        validate=lambda: (0.0, {}),
        keep=lambda is_best: None,
        name="three",
    )
    assert loop.run().step == 3
    tensors = {name: tensor.contiguous() for name, tensor in family.state_dict().items()}
    tensors |= {f"average.{index}": tensor for index, tensor in enumerate(loop.average.shadow_params)}
    save_file(tensors, folder / f"three-{accelerator.num_processes}-{accelerator.process_index}.safetensors")


def whole_run(folder: Path, rank: int) -> None:
    """A run from data to checkpoint, and what every process drew and ended with."""
    draws = []
    generate = NeuMetaForImageClassification.generate

    def record(self, width=1.0, **options):
        if self.training and torch.is_grad_enabled():
            draws.append([self.target_family.num_channels(self.target_config_at(width)), options])
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
    whole_run(output, accelerator.process_index)
