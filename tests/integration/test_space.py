"""The page of a family: what it shows, and the page itself in a browser where there is one."""

import html
import importlib
import io
import json
import os
import re
import shutil
import tomllib
import warnings

import numpy as np
import pytest
import torch
import yaml
from documents import ROOT
from example_scripts import EXAMPLES
from PIL import Image

from neumeta_hf import NeuMetaModel, example
from neumeta_hf.errors import CheckpointError, DataError, SizeError
from neumeta_hf.evaluation import count_macs
from neumeta_hf.targets import build_image_processor
from tiny_targets import TARGETS, make_network

SPACE = EXAMPLES / "space"
WITHOUT_BATCH_NORM = ("lenet", "autoencoder_tiny", "mlp_vae", "bert")
DIGITS = str(example("digits-lenet"))


def module(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SPACE))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def digits():
    return module("family_view").FamilyView(DIGITS)


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio", reason="the page needs the extra `space`")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return module("app")


@pytest.fixture
def make_view(tmp_path):
    """Views of tiny families, with what a run leaves beside them."""

    def make(target, *, processor=False, **files):
        folder = tmp_path / "family"
        options = {"hypernetwork": {"type": "grid"}, "normalization": "keep"}
        if "depths" in files:
            options["trained_depths"] = files.pop("depths")
        if target not in WITHOUT_BATCH_NORM:  # statistics of other sizes are measured on these
            options["calibration_images"] = 4
        network = make_network(TARGETS[target]())
        family = NeuMetaModel.from_reference(network, trained_widths=[0.5, 1.0], **options)
        family.save_pretrained(folder)
        if processor:
            channels, *sides = family.target_family.image_shape(family.reference_config)
            half = [0.5] * channels
            build_image_processor(num_channels=channels, image_size=sides, mean=half, std=half).save_pretrained(folder)
        for name, values in files.items():
            (folder / f"{name}.json").write_text(json.dumps(values))
        return module("family_view").FamilyView(str(folder))

    return make


# ------------------------------------------------------------------------------------------------- what it shows


def test_a_size_is_shown_with_what_the_library_says_of_it(digits):
    network = digits.morph([0.5, 0.25, 1.0])
    family = NeuMetaModel.from_pretrained(DIGITS)
    same = family.morph({"conv1": 0.5, "conv2": 0.25, "conv3": 1.0})
    assert network.num_parameters == same.num_parameters()
    assert network.macs == count_macs(same, torch.zeros(1, 1, 8, 8))
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in network.model.state_dict().items())
    assert network.milliseconds > 0
    half = digits.morph([0.5] * 3)
    known = next(row for row in digits.sweep["rows"] if row["width"] == 0.5)
    assert (half.num_parameters, half.macs) == (known["num_parameters"], known["macs"])
    assert half.score == pytest.approx(known["accuracy"], abs=0.006)  # measured again, on the digits' test images
    assert half.is_measured


def test_scores_of_other_families_are_read_from_their_sweep(make_view):
    rows = [
        {"width": width, "accuracy": score, "num_parameters": size, "macs": 9, "compression_rate": 0.0}
        | {"trained": True, "in_range": True}
        for width, score, size in ((0.5, 0.6, 158), (1.0, 0.8, 451))
    ]
    view = make_view("lenet", sweep={"facts": {"task": "image-classification"}, "rows": rows})
    small, large = (view.morph([width] * 3) for width in (0.5, 1.0))
    assert view.test_images is None
    for row, network in zip(view.sweep["rows"], (small, large), strict=True):
        row["num_parameters"] = network.num_parameters
        assert view.morph([row["width"]] * 3).score == row["accuracy"]
    between = view.morph([0.75] * 3)
    assert (between.score, between.is_measured) == (pytest.approx(0.7), False)
    assert view.morph([0.5, 1.0, 1.0]).score is None  # no curve says what such a size is worth


def test_weights_are_those_of_the_network_in_the_frame_of_the_full_size(digits):
    for width in (1.0, 0.5):
        picture, said = digits.draw_weights(digits.morph([width] * 3), "conv3.weight")
        pixels = np.asarray(picture)
        outputs, inputs = round(96 * width), round(48 * width)
        assert pixels.shape == (48 * 3, 96 * 3, 3)
        is_frame = (pixels == pixels[-1, -1]).all(-1) if width < 1 else np.zeros(pixels.shape[:2], bool)
        assert is_frame[inputs * 3 :].all()
        assert is_frame[:, outputs * 3 :].all() or width == 1
        assert is_frame[: inputs * 3, : outputs * 3].mean() < 0.01
        assert f"{outputs} of 96" in said
    with pytest.raises(DataError, match=r"conv1\.weight"):
        digits.draw_weights(digits.morph([1.0] * 3), "nothing")


def test_an_image_and_a_drawing_are_told_apart_from_others(digits, tmp_path):
    batch = digits.test_images.__getitems__(list(range(40)))
    network, right = digits.morph([0.5] * 3), 0
    for number, image in enumerate(digits.test_images.shown(batch)):
        Image.fromarray((255 * image[0]).byte().numpy()).save(tmp_path / "digit.png")
        prediction = digits.predict(network, digits.read_image(str(tmp_path / "digit.png")))
        right += prediction.classes[0][0] == str(int(batch["labels"][number]))
        assert prediction.seen.size == (8, 8)
        assert len(prediction.classes) == 5
    assert right >= 37
    stroke = Image.new("RGB", (280, 280), "black")
    stroke.paste("white", (20, 20, 44, 120))
    elsewhere = Image.new("RGB", (280, 280), "black")
    elsewhere.paste("white", (200, 150, 224, 250))
    one, other = (digits.predict(network, image, is_drawn=True) for image in (stroke, elsewhere))
    assert one.classes == other.classes  # it is cropped to its ink
    with pytest.raises(DataError, match="nothing is drawn"):
        digits.predict(network, Image.new("RGB", (280, 280), "black"), is_drawn=True)


def test_files_that_are_no_images_are_refused_in_one_sentence(digits, tmp_path):
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(whole, format="PNG")
    bomb = io.BytesIO()
    Image.new("1", (7000, 7000)).save(bomb, format="PNG")
    contents = [b"", b"GIF89a", b"<svg/>", whole.getvalue()[:900], bomb.getvalue()]
    for content in contents:
        (tmp_path / "image.png").write_bytes(content)
        with pytest.raises(DataError, match="image"):
            digits.read_image(str(tmp_path / "image.png"))
    for url in ("", "data:image/png;base64,", "data:image/png;base64,!!", "file:///etc/passwd", "data:text/html,x"):
        with pytest.raises(DataError):
            digits.read_drawing(url)


@pytest.mark.parametrize("target", ["cifar_resnet", "upernet", "mlp_vae", "bert"])
def test_families_of_every_task_are_shown(make_view, target):
    view = make_view(target, processor=target in ("cifar_resnet", "upernet"))
    assert 1 <= len(view.sliders) <= module("family_view").MOST_SLIDERS
    assert sorted(group for slider in view.sliders for group in slider.groups) == sorted(view.family.width_groups)
    assert view.curve == []
    network = view.morph([0.75] * len(view.sliders))
    assert network.score is None
    for layer in view.layers:
        assert view.draw_weights(network, layer)[0].width > 0
    if not view.takes_images:
        return
    prediction = view.predict(network, Image.new("RGB", (40, 30), "teal"))
    _, height, width = view.image_shape
    assert prediction.seen.size == (width, height)
    assert (prediction.made is None) == (view.task == "image-classification")
    if prediction.classes:
        assert {name for name, _ in prediction.classes} <= set(view.label_names)


def test_depth_leaves_layers_out_and_an_impossible_size_is_an_error(make_view):
    view = make_view("cifar_resnet", depths=[0.5, 1.0])
    assert view.least_depth == 0.5
    full, shallow = (view.morph([1.0] * len(view.sliders), depth) for depth in (1.0, 0.5))
    assert shallow.num_parameters < full.num_parameters
    assert any("left out" in view.draw_weights(shallow, layer)[1] for layer in view.layers)
    with pytest.raises(SizeError):
        view.morph([0.0] * len(view.sliders))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert view.morph([0.3] * len(view.sliders)).notes  # outside the trained range: said on the page


def test_a_slider_moves_several_groups_where_there_are_many():
    find = module("family_view").find_sliders
    stages = [f"stage{stage}{block}" for stage in (1, 2, 3) for block in ("", ".block1", ".block2", ".block3")]
    layers = ["hidden", *(f"layer{layer}.{part}" for layer in range(1, 13) for part in ("heads", "mlp"))]
    for groups, names in (
        (["conv1", "conv2"], ["conv1", "conv2"]),
        (stages, ["stage1", "stage1.block*", "stage2", "stage2.block*", "stage3", "stage3.block*"]),
        (layers, ["hidden", "layer*.heads", "layer*.mlp"]),
    ):
        sliders = find(groups)
        assert [slider.name for slider in sliders] == names
        assert sorted(group for slider in sliders for group in slider.groups) == sorted(groups)


def test_without_an_image_processor_there_is_no_guess(make_view):
    view = make_view("lenet")
    with pytest.raises(DataError, match="image processor"):
        view.predict(view.morph([1.0] * 3), Image.new("L", (8, 8)))


def test_a_plain_network_is_no_family(tmp_path):
    make_network(TARGETS["resnet"]()).save_pretrained(tmp_path / "plain")
    with pytest.raises(CheckpointError):
        module("family_view").FamilyView(str(tmp_path / "plain"))


def test_what_the_space_installs_is_what_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    first, *lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert first.startswith("--extra-index-url")
    assert lines == project["dependencies"]
    header = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    pinned = dict(line.split("==") for line in project["optional-dependencies"]["space"])
    assert header["sdk"] == "gradio"
    assert header["sdk_version"] == pinned["gradio"]
    assert (SPACE / header["app_file"]).is_file()


# --------------------------------------------------------------------------------------------------- the page


def test_what_a_checkpoint_says_does_nothing_on_the_page(app, digits):
    hostile = '<img src=x onerror="alert(1)">{{constructor}}${alert(1)}\x1b[31m'
    prediction = module("family_view").Prediction(seen=Image.new("L", (8, 8)), classes=((hostile, 0.5),))
    for shown in (app.show_prediction(prediction), app.show_message(hostile, "error")):
        assert "<img src=x" not in shown
        assert not re.search(r"\{\{|\$\{|\x1b", shown)
        assert "onerror" in html.unescape(shown)  # it can be read


def test_an_error_becomes_a_message_and_nothing_else_changes(app, digits):
    import gradio

    page = app.Page(digits)
    message, *rest = page.show_size("conv1.weight", 0.0, 0.0, 0.0, 1.0)
    assert "nm-error" in message
    assert [type(value) for value in rest] == [type(gradio.skip())] * 3
    message, *_ = page.show_size("conv1.weight", 0.5, 0.5, 0.5, 1.0)
    assert message == ""
    assert "nm-error" in page.show_prediction("nowhere.png", None, False, 0.5, 0.5, 0.5, 1.0)[0]


def test_the_family_comes_from_the_argument_the_environment_or_the_card(app, tmp_path, monkeypatch):
    monkeypatch.delenv("NEUMETA_FAMILY", raising=False)
    assert app.find_family(None) == DIGITS
    monkeypatch.setattr(app, "HERE", tmp_path)
    (tmp_path / "README.md").write_text("---\nmodels:\n- org/family\n---\n")
    assert app.find_family(None) == "org/family"
    monkeypatch.setenv("NEUMETA_FAMILY", "org/other")
    assert app.find_family(None) == "org/other"
    assert app.find_family("mine") == "mine"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is driven with the extra `space`")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium to drive the page with: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def served(app):
    """Addresses of the page of the digits, and of one whose family is missing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        pages = [app.build(DIGITS), app.build("/nowhere/at/all")]
        yield [app.serve(blocks, prevent_thread_lock=True, quiet=True) for blocks in pages]
        for blocks in pages:
            blocks.close(verbose=False)


def test_somebody_moves_a_slider_uploads_an_image_and_draws_one(served, browser, digits, tmp_path):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(20_000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served[0])

    def wait_for(place, text):
        page.wait_for_function(
            "([place, text]) => document.querySelector(place)?.innerText.includes(text)", arg=[place, text]
        )

    wait_for("#nm-numbers", f"{digits.morph([0.5] * 3).num_parameters:,}")
    wait_for("#nm-predicted", "%")
    picture = page.locator("#nm-weights img").get_attribute("src")
    slider = page.locator("#nm-uniform input[type=range]")
    slider.focus()
    slider.press("End")
    full = digits.morph([1.0] * 3)
    wait_for("#nm-numbers", f"{full.num_parameters:,}")
    wait_for("#nm-numbers", f"{full.macs:,}")
    wait_for("#nm-numbers", "96 of 96")
    page.wait_for_function("[...document.querySelectorAll('#nm-group-2 input')].every(field => field.value == 1)")
    assert page.locator("#nm-weights img").get_attribute("src") != picture
    assert "53,530" in page.locator("#nm-curve figure").get_attribute("aria-label")

    batch = digits.test_images.__getitems__([3])
    name = str(int(batch["labels"][0]))
    Image.fromarray((255 * digits.test_images.shown(batch)[0][0]).byte().numpy()).save(tmp_path / "digit.png")
    page.locator("#nm-image button[aria-label='Clear'], #nm-image button[aria-label*='emove']").first.click()
    page.locator("#nm-image input[type=file]").first.set_input_files(tmp_path / "digit.png")
    expected = digits.predict(full, digits.read_image(str(tmp_path / "digit.png"))).classes[0]
    assert expected[0] == name
    wait_for("#nm-predicted ol li", name)
    wait_for("#nm-predicted ol li", f"{expected[1]:.1%}")

    page.get_by_role("tab", name="a drawing").click()
    wait_for("#nm-predicted", "Draw something")
    canvas = page.locator("#nm-drawing canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 110, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 190, steps=4)
    page.mouse.up()
    wait_for("#nm-predicted ol li", "%")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not [url for url in asked if not url.startswith((served[0].rstrip("/"), "data:", "blob:"))]
    page.close()


def test_a_family_that_is_missing_is_a_message_and_no_traceback(served, browser):
    page = browser.new_page()
    page.goto(served[1])
    page.wait_for_selector("#nm-failed [role=alert]", timeout=20_000)
    said = page.locator("body").inner_text()
    assert "/nowhere/at/all" in said
    assert "Traceback" not in said
    page.close()
