"""Private names of other packages, which may change in any version: one list, and what each must go on doing.

A renamed one would often go unnoticed, since something is set that nobody reads, or defined that nobody calls.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import itertools
import json
import sys
import types
from pathlib import Path

import huggingface_hub
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from transformers import PreTrainedConfig, PreTrainedModel, ViTConfig, ViTModel
from transformers.modeling_layers import GradientCheckpointingLayer

import neumeta_hf

_TINY_VIT = ViTConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4, image_size=16)
SOURCES = sorted(Path(neumeta_hf.__file__).parent.rglob("*.py"))


def changes_are_counted():
    tensor = torch.zeros(2)
    before = tensor._version
    tensor.add_(1)
    assert tensor._version > before


def modules_hold_their_tensors():
    module = nn.Sequential(nn.BatchNorm1d(2))
    assert list(module._modules) == ["0"]
    assert set(module[0]._parameters) == {"weight", "bias"}
    assert set(module[0]._buffers) == {"running_mean", "running_var", "num_batches_tracked"}


def layers_have_their_bases():
    assert issubclass(nn.BatchNorm2d, _BatchNorm)
    assert not issubclass(nn.GroupNorm, _NormBase)
    assert issubclass(nn.InstanceNorm2d, _NormBase)
    assert issubclass(nn.SyncBatchNorm, _BatchNorm)
    assert all(issubclass(layer, _ConvNd) for layer in (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d))
    assert issubclass(nn.ConvTranspose2d, _ConvTransposeNd)
    assert not issubclass(nn.Conv2d, _ConvTransposeNd)


def lists_are_subtracted_in_place():
    values = [torch.tensor([3.0]), torch.tensor([5.0])]
    torch._foreach_sub_(values, torch._foreach_sub(values, [torch.ones(1)] * 2), alpha=0.5)
    assert [value.item() for value in values] == [2.0, 3.0]


def schedules_say_where_they_are():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    state = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step).state_dict()
    assert {"last_epoch", "_step_count", "_last_lr"} <= set(state)


def compiled_modules_are_wrapped():
    compiled = torch.compile(nn.Linear(1, 1))
    assert "_orig_mod.weight" in compiled.state_dict()


def layers_run_again_by_what_they_are_given():
    calls = []
    layer = ViTModel(copy.deepcopy(_TINY_VIT)).layers[0]
    assert isinstance(layer, GradientCheckpointingLayer)
    layer.train().gradient_checkpointing = True
    layer._gradient_checkpointing_func = lambda call, *inputs: calls.append(len(inputs)) or call(*inputs)
    layer(torch.zeros(1, 2, 4))
    assert calls == [1]


def options_can_be_put_into_groups():
    parser = argparse.ArgumentParser()
    assert isinstance(parser, argparse._ActionsContainer)
    assert isinstance(parser.add_argument_group("more"), argparse._ActionsContainer)


def models_choose_their_attention():
    config = copy.deepcopy(_TINY_VIT)
    assert config._attn_implementation is None
    assert ViTModel(config).config._attn_implementation == "sdpa"
    config._attn_implementation = "eager"
    assert ViTModel(config).config._attn_implementation == "eager"


class _Network(PreTrainedModel):
    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.kept, self.drawn = nn.Linear(2, 2), nn.Linear(2, 2)
        self.visited = []
        self.kept.weight.data.fill_(3.0)
        self.kept.weight._is_hf_initialized = True
        self.post_init()

    def _init_weights(self, module):
        self.visited.append(module)
        super()._init_weights(module)


def marked_tensors_are_not_drawn_again():
    network = _Network(PreTrainedConfig())
    assert (network.kept.weight == 3.0).all()
    assert not (network.drawn.weight == 3.0).any()


def modules_are_initialised():
    network = _Network(PreTrainedConfig())
    assert network.drawn in network.visited


def configs_name_their_origin():
    assert "_name_or_path" in vars(PreTrainedConfig(name_or_path="somewhere"))


def autoencoders_keep_their_config():
    network = AutoencoderKL(block_out_channels=(4,), layers_per_block=1, norm_num_groups=2, latent_channels=1)
    network._internal_dict = type(network._internal_dict)({**network._internal_dict, "latent_channels": 7})
    assert network.config.latent_channels == 7
    assert json.loads(network.to_json_string())["_class_name"] == "AutoencoderKL"


def precisions_are_forgotten():
    try:
        for precision in ("no", "bf16"):
            AcceleratorState._reset_state()
            assert Accelerator(mixed_precision=precision, cpu=True).mixed_precision == precision
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def absent_files_are_told_apart():
    assert huggingface_hub._CACHED_NO_EXIST is not None


def subcommands_have_their_type():
    assert isinstance(argparse.ArgumentParser().add_subparsers(), argparse._SubParsersAction)


def imports_under_way_are_known():
    module = types.ModuleType("under_way")

    class Loader(importlib.abc.Loader):
        def create_module(self, spec):
            return module

        def exec_module(self, module):
            self.while_imported = module.__spec__._initializing

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            return importlib.util.spec_from_loader(name, loader) if name == "under_way" else None

    loader, finder = Loader(), Finder()
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("under_way")
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop("under_way", None)
    assert loader.while_imported is True
    assert module.__spec__._initializing is False


USED = {
    "_version": changes_are_counted,
    "_modules": modules_hold_their_tensors,
    "_parameters": modules_hold_their_tensors,
    "_buffers": modules_hold_their_tensors,
    "_BatchNorm": layers_have_their_bases,
    "_NormBase": layers_have_their_bases,
    "_ConvNd": layers_have_their_bases,
    "_ConvTransposeNd": layers_have_their_bases,
    "_foreach_sub": lists_are_subtracted_in_place,
    "_foreach_sub_": lists_are_subtracted_in_place,
    "_step_count": schedules_say_where_they_are,
    "_last_lr": schedules_say_where_they_are,
    "_orig_mod": compiled_modules_are_wrapped,
    "_is_hf_initialized": marked_tensors_are_not_drawn_again,
    "_init_weights": modules_are_initialised,
    "_gradient_checkpointing_func": layers_run_again_by_what_they_are_given,
    "_ActionsContainer": options_can_be_put_into_groups,
    "_attn_implementation": models_choose_their_attention,
    "_name_or_path": configs_name_their_origin,
    "_internal_dict": autoencoders_keep_their_config,
    "_class_name": autoencoders_keep_their_config,
    "_reset_state": precisions_are_forgotten,
    "_CACHED_NO_EXIST": absent_files_are_told_apart,
    "_SubParsersAction": subcommands_have_their_type,
    "_initializing": imports_under_way_are_known,
}
DOCUMENTED = {"_exit"}  # of `os`


@pytest.mark.parametrize("name", USED)
def test_a_private_name_does_what_is_counted_on(name):
    USED[name]()


def test_the_list_is_whole():
    ours, found = set(), set()
    for node in itertools.chain.from_iterable(ast.walk(ast.parse(path.read_text())) for path in SOURCES):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                ours.add(name)
            case (
                ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store())
                | ast.Name(id=name, ctx=ast.Store())
            ):
                ours.add(name)
            case ast.Attribute(attr=name):
                found.add(name)
            case ast.ImportFrom(names=names):
                found |= {alias.name for alias in names}
    private = {name for name in found - ours if name.startswith("_") and not name.startswith("__")}
    assert private <= USED.keys() | DOCUMENTED, "put what is new into the list, with what it has to do"
