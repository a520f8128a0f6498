"""A Hub of each test's own, with huggingface_hub, transformers and datasets pointed at it."""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
import transformers.dynamic_module_utils
import transformers.utils.hub
import yaml
from huggingface_hub import constants, file_download, hf_api
from huggingface_hub.utils import _http

from hub_server import HubServer
from neumeta_hf.targets import build_image_processor
from neumeta_hf.training import Recipe

TOKEN = "hf_test"


def client_constants(endpoint: str, home: Path) -> dict[object, dict[str, object]]:
    """What the libraries read from the environment when they are imported: by module, names and values."""
    modules = home / "modules"
    downloads = home / "datasets" / "downloads"
    return {
        constants: {
            "ENDPOINT": endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        },
        hf_api.api: {"endpoint": endpoint},
        transformers.utils.hub: {"_hf_api": None, "HF_MODULES_CACHE": str(modules)},
        transformers.dynamic_module_utils: {"HF_MODULES_CACHE": str(modules)},
        datasets.config: {
            "HF_ENDPOINT": endpoint,
            "HUB_DATASETS_URL": endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}",
            "HF_CACHE_HOME": str(home),
            "HF_DATASETS_CACHE": home / "datasets",
            "HF_MODULES_CACHE": modules,
            "DOWNLOADED_DATASETS_PATH": downloads,
            "EXTRACTED_DATASETS_PATH": downloads / "extracted",
            "HF_HUB_OFFLINE": False,
            "HF_DATASETS_OFFLINE": False,
            "HF_UPDATE_DOWNLOAD_COUNTS": False,  # they are counted on S3, not on the Hub
            "STREAMING_READ_RETRY_INTERVAL": 0,
            "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 0,
            "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL": 0,
            "STREAMING_OPEN_RETRY_INTERVAL": 0,
        },
    }


def forget_connections() -> None:
    """Drop what the client keeps of a server for the whole process: its connections, and its file systems."""
    huggingface_hub.close_session()
    huggingface_hub.HfFileSystem.clear_instance_cache()


@pytest.fixture
def hf_home(tmp_path_factory) -> Path:
    """The folder of every cache. Outside of `tmp_path`, so that a test may push that."""
    return tmp_path_factory.mktemp("hf_home")


@pytest.fixture
def client_waits(monkeypatch) -> list[float]:
    """The seconds that huggingface_hub wanted to wait before its retries; it does not wait."""
    waits: list[float] = []
    impatient = SimpleNamespace(**{**vars(time), "sleep": waits.append})
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", impatient)
    return waits


@pytest.fixture
def hub(request, monkeypatch, hf_home, client_waits):
    """A running Hub, and the libraries of this process as its clients, with a token and empty caches.

    Options of `HubServer` are given with `@pytest.mark.parametrize("hub", [{"cdn": True}], indirect=True)`.
    """
    with HubServer(**{"token": TOKEN, **getattr(request, "param", {})}) as server:
        for owner, values in client_constants(server.endpoint, hf_home).items():
            for name, value in values.items():
                monkeypatch.setattr(owner, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        # Code from the Hub is imported from a folder that transformers appends here.
        monkeypatch.setattr(sys, "path", list(sys.path))
        forget_connections()
        yield server
        forget_connections()
        for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
            del sys.modules[name]
    assert not server.errors


@pytest.fixture
def hub_environment(hub, hf_home) -> dict[str, str]:
    """The whole environment of a subprocess that is a client of `hub`, with the same token and caches."""
    prefixes = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return {
        **kept,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(hf_home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }


@pytest.fixture
def run_folder(make_case, tmp_path) -> Path:
    """What a finished and evaluated run of a small LeNet leaves behind."""
    folder = tmp_path / "run"
    family = make_case("lenet").family()
    family.save_pretrained(folder)
    build_image_processor(num_channels=1, image_size=28, mean=[0.13], std=[0.31]).save_pretrained(folder)
    recipe = Recipe(output_dir="/home/somebody/runs/a", seed=3)
    recipe.data.dataset = "/home/somebody/data/mnist"
    recipe.target.checkpoint = "org/teacher"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    environment = {"device": "cpu", "cores": 2, "date": "2026-01-02", "versions": {"torch": "2.13.0"}}
    (folder / "training.json").write_text(
        json.dumps({"environment": environment, "seconds": {"pretrain": 20.0, "train": 41.2}, "seed": 3})
    )
    rows = [
        {
            "width": width,
            "accuracy": accuracy,
            "loss": 0.1,
            "num_parameters": 1000,
            "macs": 2000,
            "compression_rate": 0.25,
            "trained": trained,
            "in_range": in_range,
        }
        for width, accuracy, trained, in_range in (
            (0.25, 0.5, False, False),
            (0.5, 0.9125, True, True),
            (0.75, 0.95, False, True),
            (1.0, 0.98, True, True),
        )
    ]
    facts = {"dataset": "mnist", "split": "test", "num_images": 300, "seed": 0, "device": "cpu"}
    facts |= {"num_samples": 1, "noise": 0.0, "calibrated": None}
    sweep = {"facts": {**facts, "date": "2026-01-02", "versions": {"torch": "2.13.0"}}, "reference": None, "rows": rows}
    (folder / "sweep.json").write_text(json.dumps(sweep))
    (folder / "sweep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    return folder
