"""What `import neumeta_hf` costs, and that Auto classes know its models whatever was imported first.

Each case needs a process of its own. Most are forks of one that knows neither neumeta_hf nor the Auto classes.
"""

import ast
import inspect
import subprocess
import sys
import textwrap

import pytest
import torch
from transformers import ResNetConfig

import neumeta_hf
from neumeta_hf.modeling_tasks import NeuMetaForImageClassification
from neumeta_hf.targets import LeNetConfig, build_image_processor, find_target

ROOMS = [
    "calibration",
    "cli",
    "configuration_neumeta",
    "coordinates",
    "data",
    "evaluation",
    "hypernetworks",
    "modeling_neumeta",
    "preparation",
    "targets",
    "training",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A family of LeNets in `family`, a network of it in `half`, and one of a family of stock ResNets in `stock`."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    stock = ResNetConfig(**sizes, image_size=32)
    family = NeuMetaForImageClassification.from_reference(
        find_target(stock).build(stock), normalization="keep", trained_widths=[0.5, 1.0], hypernetwork={"type": "grid"}
    )
    family.morph(0.5, calibration=[torch.randn(4, 3, 32, 32)]).save_pretrained(root / "stock")
    config = LeNetConfig(hidden_channels=[2, 2, 2], kernel_size=3, image_size=8, num_labels=3)
    model = NeuMetaForImageClassification.from_reference(
        find_target(config).build(config), trained_widths=[0.5, 1.0], hypernetwork={"type": "grid"}
    )
    model.save_pretrained(root / "family")
    model.morph(0.5).save_pretrained(root / "half")
    build_image_processor(num_channels=1, image_size=8, mean=[0.5], std=[0.5]).save_pretrained(root / "half")
    return root


def fresh(program):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_bare_import_is_light():
    fresh("""
        import sys
        import neumeta_hf
        neumeta_hf.NeuMetaError, neumeta_hf.__version__, dir(neumeta_hf)
        heavy = ("torch", "transformers", "datasets", "diffusers", "accelerate", "evaluate", "numpy", "matplotlib")
        assert not [name for name in heavy if name in sys.modules]
    """)


def test_the_parser_of_the_command_is_light():
    fresh("""
        import sys
        from neumeta_hf import cli
        cli.build_parser()
        assert "torch" not in sys.modules and "transformers" not in sys.modules
    """)


def test_info_and_morph_load_nothing_of_data_training_and_drawing(folder, tmp_path):
    family = str(folder / "family")
    commands = [["info", family], ["info", family, "--json"], ["morph", family, "--width", "0.5", "--output", "half"]]
    commands += [["morph", family, "--max-parameters", "1M", "--output", "budget"]]
    fresh(f"""
        import os, sys
        from neumeta_hf import cli
        os.chdir({str(tmp_path)!r})
        unneeded = ("datasets", "diffusers", "evaluate", "matplotlib", "neumeta_hf.data", "neumeta_hf.training",
            "pandas", "sklearn", "torch_pruning", "torchmetrics")
        # accelerate is not among them: transformers itself loads it with PreTrainedModel.
        for command in {commands!r}:
            assert cli.main(command) == 0
            loaded = [name for name in unneeded if name in sys.modules]
            assert not loaded, (command, loaded)
    """)


@pytest.mark.parametrize(
    "imports",
    [
        "from transformers import AutoModel, AutoModelForImageClassification; import neumeta_hf",
        "import transformers, neumeta_hf; from transformers import AutoModel, AutoModelForImageClassification",
        "import neumeta_hf; from transformers import AutoModelForImageClassification, AutoModel",
        "import neumeta_hf; from transformers import pipeline, AutoModel, AutoModelForImageClassification",
    ],
    ids=["transformers first", "transformers' shell first", "neumeta_hf first", "through the pipelines"],
)
def test_auto_models_know_families_and_targets_whichever_is_imported_first(imports, folder, fork):
    fork.run(f"""
        {imports}
        names = [type(auto.from_pretrained({str(folder)!r} + "/" + name)).__name__
            for auto, name in ((AutoModel, "family"), (AutoModelForImageClassification, "family"),
                               (AutoModelForImageClassification, "half"))]
        assert names == ["NeuMetaModel", "NeuMetaForImageClassification", "LeNetForImageClassification"], names
    """)


def test_a_stock_morph_loads_without_this_package_and_a_lenet_after_its_import(folder, fork):
    fork.run(f"""
        import sys
        from transformers import AutoModelForImageClassification
        def load(name):
            return type(AutoModelForImageClassification.from_pretrained({str(folder)!r} + "/" + name))
        assert load("stock").__module__.startswith("transformers.models.resnet"), load("stock")
        try:
            load("half")
        except ValueError as error:
            assert "neumeta_lenet" in str(error), error
        else:
            raise AssertionError("a LeNet is no class of transformers")
        assert not [name for name in sys.modules if name.startswith("neumeta_hf")]
        import neumeta_hf
        assert load("half").__name__ == "LeNetForImageClassification"
    """)


def test_families_are_there_before_diffusers_is(fork):
    fork.run("""
        import sys
        from neumeta_hf.targets import LeNetConfig, config_of, find_target
        config_of(find_target("lenet").build(LeNetConfig()))
        find_target("autoencoder_kl"), find_target("mlp_vae")
        assert "diffusers" not in sys.modules
        from neumeta_hf.targets import NeuMetaAutoencoderKL
        from diffusers import AutoencoderKL
        assert issubclass(NeuMetaAutoencoderKL, AutoencoderKL)
    """)


def test_auto_config_alone_knows_them(folder):
    fresh(f"""
        import neumeta_hf
        from transformers import AutoConfig
        names = [AutoConfig.from_pretrained({str(folder)!r} + "/" + name).model_type for name in ("half", "family")]
        assert names == ["neumeta_lenet", "neumeta"], names
    """)


def test_auto_image_processor_alone_knows_ours(folder, fork):
    fork.run(f"""
        import neumeta_hf
        from transformers import AutoImageProcessor
        processor = AutoImageProcessor.from_pretrained({str(folder / "half")!r})
        assert type(processor).__name__ == "GrayscaleImageProcessor"
    """)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_can_be_imported_first(room, fork):
    fork.run(f"""
        import neumeta_hf.{room}
        from transformers import AutoConfig, AutoModelForImageClassification
        for model_type in ("neumeta", "neumeta_lenet", "neumeta_cifar_resnet", "neumeta_resnet"):
            assert type(AutoConfig.for_model(model_type)) in AutoModelForImageClassification._model_mapping
    """)


@pytest.mark.parametrize("name", ["NeuMetaConfig", "find_target", "list_hypernetworks", "load_image_data", "prepare"])
def test_a_public_name_can_be_the_first_to_be_used(name, fork):
    fork.run(f"""
        import importlib, neumeta_hf
        home = importlib.import_module("neumeta_hf." + neumeta_hf._HOMES["{name}"])
        assert neumeta_hf.{name} is home.{name}
    """)


def test_what_is_public_is_said_thrice_alike():
    tree = ast.parse(inspect.getsource(neumeta_hf))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == {name: f"neumeta_hf.{home}" for name, home in neumeta_hf._HOMES.items()}
    assert neumeta_hf.__all__ == sorted(neumeta_hf._HOMES)
    assert set(neumeta_hf.__all__) <= set(dir(neumeta_hf))


def test_star_import_gives_them_all():
    names: dict[str, object] = {}
    exec("from neumeta_hf import *", names)
    assert set(neumeta_hf.__all__) <= set(names)


def test_an_unknown_name_is_refused_as_modules_do():
    with pytest.raises(AttributeError, match="module 'neumeta_hf' has no attribute 'NeuMetta'"):
        neumeta_hf.NeuMetta  # noqa: B018
