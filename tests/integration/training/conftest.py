import copy

import pytest
from accelerate.state import PartialState
from tiny_runs import DATA, RECIPE, reset_accelerate

from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.training import recipe_from_dict


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    reset_accelerate()
    yield
    reset_accelerate()
    assert not PartialState._shared_state


@pytest.fixture(scope="session")
def digits():
    return load_image_data(DataConfig(**{**DATA, "augmentation": "none"}))


@pytest.fixture
def make_recipe(tmp_path):
    """A tiny run on the embedded digits; sections are merged into it key by key."""

    def make(name="run", **changes):
        values = copy.deepcopy(RECIPE)
        for key, value in changes.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) and key in values else value
        return recipe_from_dict({"output_dir": str(tmp_path / name), **values})

    return make
