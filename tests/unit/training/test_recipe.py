import dataclasses
from pathlib import Path

import pytest
import yaml

from neumeta_hf.errors import RecipeError
from neumeta_hf.training import Recipe, load_recipe, recipe_from_dict
from neumeta_hf.training.recipe import LoopRecipe

RECIPES = sorted((Path(__file__).parents[3] / "examples" / "recipes").glob("*.yaml"))


def test_no_file_is_the_defaults():
    assert load_recipe() == Recipe()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_read_and_survives_yaml(path, tmp_path):
    recipe = load_recipe(path)
    written = tmp_path / "recipe.yaml"
    written.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    assert load_recipe(written) == recipe


def test_a_recipe_survives_yaml(tmp_path):
    recipe = load_recipe(None, ["pretrain.epochs=3", "train.clip=0.5", "sizes.widths=[0.5, 1]", "seed=7"])
    written = tmp_path / "recipe.yaml"
    written.write_text(yaml.safe_dump(recipe.to_dict()))
    again = load_recipe(written)
    assert again == recipe
    assert isinstance(again.pretrain, LoopRecipe)
    assert again.to_dict() == recipe.to_dict()


def test_a_bare_no_is_the_word_although_yaml_reads_false():
    assert load_recipe(None, ["mixed_precision=no"]).mixed_precision == "no"
    with pytest.raises(RecipeError, match="mixed_precision=True"):
        load_recipe(None, ["mixed_precision=yes"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sead": 1}, r"recipe key sead is unknown: did you mean seed\?"),
        ({"train": {"epoch": 3}}, r"recipe key train\.epoch is unknown: did you mean epochs\?"),
        ({"pretrain": {"batchsize": 3}}, r"recipe key pretrain\.batchsize is unknown: did you mean batch_size\?"),
        ({"train": {"optimizer": {"learning_rat": 3}}}, r"train\.optimizer\.learning_rat .*mean learning_rate\?"),
        ({"data": {"image_sise": 3}}, r"recipe key data\.image_sise is unknown: did you mean image_size\?"),
        ({"losses": {"zzz": 3}}, r"losses\.zzz is unknown: known here: task, task_mean, reconstruction"),
    ],
)
def test_an_unknown_key_gets_its_nearest_relative(values, says):
    with pytest.raises(RecipeError, match=says):
        recipe_from_dict(values)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"seed": "many"}, "seed='many'"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"num_samples": 10**9}, "num_samples=1000000000"),
        ({"sizes": {"widths": [0.5, float("nan")]}}, r"sizes\.widths\..*1=nan"),
        ({"sizes": {"always": [float("inf")]}}, r"sizes\.always\.0=inf"),
        ({"train": {"schedule": {"gamma": float("nan")}}}, r"train\.schedule\.gamma=nan"),
        ({"train": {"schedule": {"milestones": [float("inf")]}}}, r"milestones\.0=inf"),
        ({"family": {"coordinate_noise": float("nan")}}, r"family\.coordinate_noise=nan"),
        ({"losses": {"temperature": float("inf")}}, r"losses\.temperature=inf"),
        ({"train": {"epochs": 2.5}}, r"train\.epochs=2\.5"),
        ({"train": {"epochs": 0}}, r"train\.epochs=0"),
        ({"train": {"batch_size": -1}}, r"train\.batch_size=-1"),
        ({"train": {"evaluate_every": 0}}, r"train\.evaluate_every=0"),
        ({"train": {"ema_decay": 1.5}}, r"train\.ema_decay=1\.5"),
        ({"train": {"optimizer": {"learning_rate": -1}}}, r"learning_rate=-1"),
        ({"train": {"optimizer": {"name": "adam"}}}, r"train\.optimizer\.name='adam'"),
        ({"mixed_precision": "fp8"}, "mixed_precision='fp8'"),
        ({"losses": {"task": -1}}, r"losses\.task=-1"),
        ({"losses": {"temperature": 0}}, r"losses\.temperature=0"),
        ({"train": {"clip": 0}}, r"train\.clip=0"),  # it would leave no gradient
        ({"validation_widths": []}, r"validation_widths=\[\]"),
        ({"statistics_widths": []}, r"statistics_widths.*=\[\]"),
        ({"train": 3}, "train=3"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_key_and_value(values, key):
    with pytest.raises(RecipeError, match=f"recipe key .*{key}: "):
        recipe_from_dict(values)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"sizes": {"num_per_group": 2147483648}}, r"sizes\.num_per_group=2147483648"),
        ({"sizes": {"num_random": 10**6}}, r"sizes\.num_random"),
        ({"sizes": {"widths": [0.5] * 10**5}}, r"sizes\.widths"),
        ({"sizes": {"widths": [float("nan")]}}, r"sizes\.widths"),
        ({"sizes": {"always": [float("inf")]}}, r"sizes\.always"),
        ({"statistics_widths": [0.5] * 10**5}, "statistics_widths"),
        ({"statistics_images": 10**12}, "statistics_images"),
        ({"train": {"epochs": 10**12}}, r"train\.epochs"),
        ({"train": {"batch_size": 2**31}}, r"train\.batch_size"),
        ({"train": {"gradient_accumulation_steps": 2**31}}, r"train\.gradient_accumulation_steps"),
        ({"pretrain": {"num_workers": 10**6}}, r"pretrain\.num_workers"),
        ({"calibration": {"images": 10**9}}, r"calibration\.images"),
        ({"calibration": {"networks": 10**9}}, r"calibration\.networks"),
        ({"calibration": {"steps": 10**12}}, r"calibration\.steps"),
        ({"fit": {"steps": 10**12}}, r"fit\.steps"),
        ({"num_samples": 10**9}, "num_samples"),
        ({"seed": 2**32}, "seed"),  # NumPy takes none from here
        ({"seed": 16**50_000}, "seed=an integer of"),
        ({"losses": {"temperature": float("inf")}}, r"losses\.temperature"),
        ({"family": {"coordinate_noise": float("nan")}}, r"family\.coordinate_noise"),
        ({"family": {"generated": ["a"] * 10**5}}, r"family\.generated"),
        ({"family": {"hypernetwork": {"type": "inr", "hidden_size": 10**12}}}, r"family\.hypernetwork: hidden_size"),
        ({"target": {"config": {"hidden_channels": [10**12]}}}, r"target\.config: hidden_channels"),
        ({"target": {"config": {"depths": [1000] * 1000}}}, r"target\.config: depths"),
        ({"task": {"num_samples": 10**12}}, r"task: num_samples"),
        ({"trackers": ["a"] * 10**5}, "trackers"),
    ],
)
def test_a_recipe_cannot_ask_for_all_memory_or_time(values, key):
    with pytest.raises(RecipeError, match=f"recipe key .*{key}"):
        recipe_from_dict(values)


def test_numbers_that_somebody_may_need_pass():
    loop = {"epochs": 10**6, "batch_size": 2**16, "gradient_accumulation_steps": 2**10, "num_workers": 128}
    sizes = {"num_per_group": 64, "widths": [0.25 + index / 4000 for index in range(3000)]}
    recipe = recipe_from_dict({"train": loop, "sizes": sizes, "seed": 2**32 - 1, "statistics_images": 10**6})
    assert recipe.train is not None
    assert recipe.train.epochs == 10**6


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("train: {optimizer: {learning_rate: 1e-3}}\n")  # which YAML 1.1 reads as a string
    assert load_recipe(path).train.optimizer.learning_rate == 0.001


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 1\ntrain: {epochs: 5, batch_size: 7}\n")
    recipe = load_recipe(
        path, ["seed=2", "seed=3", "train.epochs=9", "target.config.hidden_channels=[1, 2, 3]", "pretrain.epochs=4"]
    )
    assert (recipe.seed, recipe.train.epochs, recipe.train.batch_size) == (3, 9, 7)
    assert recipe.target.config == {"hidden_channels": [1, 2, 3]}
    assert recipe.pretrain is not None
    assert recipe.pretrain.epochs == 4
    assert load_recipe(path, ["pretrain=null", "train.clip=null"]).pretrain is None


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "write key=value"),
        ("=3", "write key=value"),
        ("seed=[1", "no YAML value"),
        ("seed=" + "[" * 10**4, "no YAML value"),
        ("seed=&a [*a]", "no YAML value"),
        ("seed.inner=1", "holds a value, no keys"),
        ("tran.epochs=1", "did you mean train"),
    ],
)
def test_overrides_that_cannot_be_read_are_refused(override, says):
    with pytest.raises(RecipeError, match=says):
        load_recipe(None, ["seed=1", override])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2]", "holds a list"),
        ("a: [", "is no YAML"),
        (None, "cannot be read"),
        ("seed: 1\nseed: 2", "the key 'seed' twice in one mapping"),
        ("a: " + "[" * 10**4, "nested"),
    ],
)
def test_files_that_are_no_recipe_are_refused(text, says, tmp_path):
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=says):
        load_recipe(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"seed: \xff")
    with pytest.raises(RecipeError, match="no text in UTF-8"):
        load_recipe(path)


def test_defaults_are_not_shared():
    first = Recipe()
    first.family.hypernetwork["type"] = "other"
    first.train.schedule.milestones.append(1.0)
    assert Recipe().family.hypernetwork == {"type": "inr"}
    assert Recipe().train.schedule.milestones == [0.5, 0.75]


def test_every_field_is_documented():
    def walk(cls):
        yield cls
        for field in dataclasses.fields(cls):
            for kind in (field.type, *getattr(field.type, "__args__", ())):
                if dataclasses.is_dataclass(kind):
                    yield from walk(kind)

    for cls in walk(Recipe):
        if cls.__name__ == "FamilyRecipe":  # points to NeuMetaConfig
            continue
        for field in dataclasses.fields(cls):
            assert f"{field.name}:" in cls.__doc__, f"{cls.__name__}.{field.name}"


def test_the_home_folder_is_found_in_output_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe_from_dict({"output_dir": "~/runs/mine"}).output_dir == str(tmp_path / "runs" / "mine")
