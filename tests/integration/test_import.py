"""What `import neumeta_hf` costs, and that Auto classes know its models whatever was imported first.

Each case needs a process of its own. Most are forks of one that has loaded what is slow and beside the point (torch,
datasets, the base classes of transformers), and none of neumeta_hf and the Auto classes.
"""

import ast
import inspect
import json
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

SERVER = """
    import importlib, json, os, sys, traceback
    import torch._dynamo, datasets, matplotlib.figure, sklearn.datasets, torch_pruning, accelerate
    import transformers.modeling_utils, transformers.image_processing_utils
    assert "transformers.models.auto.modeling_auto" not in sys.modules and "neumeta_hf" not in sys.modules
    for line in sys.stdin:
        read, write = os.pipe()
        if os.fork() == 0:
            os.dup2(1, 2)
            try:
                exec(json.loads(line), {"__name__": "case"})
                said = ""
            except BaseException:
                said = traceback.format_exc()
            os.write(write, (said[:2000] + said[-2000:] if len(said) > 4000 else said).encode())
            os._exit(0)
        os.close(write)
        os.wait()
        print("\\0" + json.dumps(os.read(read, 65536).decode()), flush=True)
        os.close(read)
"""


@pytest.fixture(scope="module")
def run():
    """Runs a program in a fork; what it raises fails the test."""
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def run(program):
        server.stdin.write(json.dumps(textwrap.dedent(program)) + "\n")
        server.stdin.flush()
        for line in server.stdout:
            if line.startswith("\0"):
                if said := json.loads(line[1:]):
                    pytest.fail(said)
                return
        pytest.fail("the server died")

    yield run
    server.stdin.close()
    server.wait()


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


@pytest.mark.parametrize(
    "arguments",
    [["info", "{family}"], ["info", "{family}", "--json"], ["morph", "{family}", "--width", "0.5", "--output", "out"]]
    + [["morph", "{family}", "--max-parameters", "1M", "--output", "out"]],
    ids=["info", "info as JSON", "morph", "morph to a budget"],
)
def test_info_and_morph_load_nothing_of_data_training_and_drawing(arguments, folder, tmp_path):
    arguments = [argument.format(family=folder / "family") for argument in arguments]
    fresh(f"""
        import os, sys
        from neumeta_hf import cli
        os.chdir({str(tmp_path)!r})
        assert cli.main({arguments!r}) == 0
        unneeded = ("datasets", "diffusers", "evaluate", "matplotlib", "neumeta_hf.data", "neumeta_hf.training",
            "pandas", "sklearn", "torch_pruning", "torchmetrics")
        # accelerate is not among them: transformers itself loads it with PreTrainedModel.
        loaded = [name for name in unneeded if name in sys.modules]
        assert not loaded, loaded
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
def test_auto_models_know_families_and_targets_whichever_is_imported_first(imports, folder, run):
    run(f"""
        {imports}
        names = [type(auto.from_pretrained({str(folder)!r} + "/" + name)).__name__
            for auto, name in ((AutoModel, "family"), (AutoModelForImageClassification, "family"),
                               (AutoModelForImageClassification, "half"))]
        assert names == ["NeuMetaModel", "NeuMetaForImageClassification", "LeNetForImageClassification"], names
    """)


def test_a_stock_morph_loads_without_this_package_and_a_lenet_after_its_import(folder, run):
    run(f"""
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


def test_families_are_there_before_diffusers_is(run):
    run("""
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


def test_auto_image_processor_alone_knows_ours(folder, run):
    run(f"""
        import neumeta_hf
        from transformers import AutoImageProcessor
        processor = AutoImageProcessor.from_pretrained({str(folder / "half")!r})
        assert type(processor).__name__ == "GrayscaleImageProcessor"
    """)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_can_be_imported_first(room, run):
    run(f"""
        import neumeta_hf.{room}
        from transformers import AutoConfig, AutoModelForImageClassification
        for model_type in ("neumeta", "neumeta_lenet", "neumeta_cifar_resnet", "neumeta_resnet"):
            assert type(AutoConfig.for_model(model_type)) in AutoModelForImageClassification._model_mapping
    """)


@pytest.mark.parametrize("name", ["NeuMetaConfig", "find_target", "list_hypernetworks", "load_image_data", "prepare"])
def test_a_public_name_can_be_the_first_to_be_used(name, run):
    run(f"""
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
