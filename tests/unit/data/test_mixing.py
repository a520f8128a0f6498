import numpy as np
import pytest
import torch
from PIL import Image

from neumeta_hf.batches import OTHER_LABELS, OTHER_SHARES
from neumeta_hf.data import DataConfig, load_image_data
from neumeta_hf.data.mixing import draw_others, mix
from neumeta_hf.data.randaugment import CHANGES, STRENGTH, randaugment
from neumeta_hf.errors import DataError
from neumeta_hf.tasks import build_task

MOMENT = {"seed": 3, "epoch": 5}
ALL = np.arange(1000, 3000)


def black_and_white(number, size=(8, 12)):
    """Black images of class 0, and white ones of class 1 to mix in: what is white is the other's share."""
    black = {"pixel_values": torch.zeros(number, 1, *size), "labels": torch.zeros(number, dtype=torch.int64)}
    return black, {"pixel_values": torch.ones(number, 1, *size), "labels": torch.ones(number, dtype=torch.int64)}


@pytest.mark.parametrize("alphas", [(0.2, 0.0), (0.0, 1.0), (0.4, 0.7)])
def test_a_label_counts_as_much_as_its_image_is_seen(alphas):
    mixup, cutmix = alphas
    black, white = black_and_white(500)
    batch = mix(black, white, ALL[:500], mixup=mixup, cutmix=cutmix, **MOMENT)
    torch.testing.assert_close(batch["pixel_values"].mean(dim=(1, 2, 3)), batch[OTHER_SHARES])
    assert (batch[OTHER_LABELS] == 1).all()
    assert (batch["labels"] == 0).all()
    is_cut = torch.tensor([set(image.unique().tolist()) <= {0.0, 1.0} for image in batch["pixel_values"]])
    low, high = {0.2: (0.0, 0.1), 0.0: (1.0, 1.0), 0.4: (0.4, 0.6)}[mixup]
    assert low <= is_cut.float().mean() <= high
    # Beta is symmetric; of rectangles some area falls outside of the image.
    assert 0.2 < batch[OTHER_SHARES].mean() < 0.6
    assert batch[OTHER_SHARES].std() > 0.15


def test_a_rectangle_is_one_and_the_rest_stays_what_it_was():
    black, white = black_and_white(50)
    for image in mix(black, white, ALL[:50], mixup=0.0, cutmix=1.0, **MOMENT)["pixel_values"]:
        rows, columns = image[0].any(dim=1), image[0].any(dim=0)
        assert torch.equal(image[0].bool(), rows[:, None] & columns[None])
        for side in (rows, columns):
            assert side.int().diff().abs().sum() <= 2


def test_what_is_mixed_depends_on_the_image_alone_and_on_the_epoch():
    black, white = black_and_white(4)
    together = mix(black, white, ALL[:4], mixup=0.5, cutmix=0.5, **MOMENT)["pixel_values"]
    other = mix(black, white, ALL[:4], mixup=0.5, cutmix=0.5, seed=3, epoch=6)["pixel_values"]
    for index in range(4):
        one = {name: tensor[index : index + 1] for name, tensor in black.items()}
        two = {name: tensor[index : index + 1] for name, tensor in white.items()}
        alone = mix(one, two, ALL[index : index + 1], mixup=0.5, cutmix=0.5, **MOMENT)["pixel_values"]
        assert torch.equal(alone[0], together[index])
    assert not torch.equal(together, other)
    chosen = draw_others(ALL, ALL, **MOMENT)
    assert set(chosen) <= set(ALL)
    assert len(set(chosen)) > 0.5 * len(ALL)
    assert np.array_equal(draw_others(ALL[5:9], ALL, **MOMENT), chosen[5:9])


def test_training_images_alone_are_mixed_with_training_images():
    config = DataConfig(mixup=0.3, cutmix=1.0, mean=[0.0], std=[1.0])
    data, plain = load_image_data(config), load_image_data(DataConfig(mean=[0.0], std=[1.0]))
    batch, clean = data.train.__getitems__([3, 8]), plain.train.__getitems__([3, 8])
    assert torch.equal(batch["labels"], clean["labels"])
    assert not torch.equal(batch["pixel_values"], clean["pixel_values"])
    assert set(data.train[3]) == {"pixel_values", "labels", OTHER_LABELS, OTHER_SHARES}
    for split in (data.validation, data.test, data.train.with_augmentation(False)):
        assert set(split.__getitems__([0])) == {"pixel_values", "labels"}
    data.train.set_epoch(1)
    assert not torch.equal(data.train.__getitems__([3, 8])["pixel_values"], batch["pixel_values"])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mixup": -0.1}, "data.mixup=-0.1"),
        ({"cutmix": float("nan")}, "data.cutmix=nan"),
        ({"mixup": 0.2, "labels": "none"}, "data.mixup=0.2 mixes classes"),
        ({"cutmix": 1.0, "labels": "mask"}, "data.cutmix=1.0 mixes classes"),
        ({"augmentation": "randaugment", "labels": "mask"}, "randaugment does not move masks"),
    ],
)
def test_what_cannot_be_mixed_is_refused_by_name(fields, says):
    with pytest.raises(DataError, match=says):
        load_image_data(DataConfig(**fields))


def test_the_loss_of_mixed_images_is_that_of_both_classes_by_their_shares():
    logits = torch.randn(3, 4, requires_grad=True)
    outputs = type("Output", (), {"logits": logits})
    labels, others, shares = torch.tensor([0, 1, 2]), torch.tensor([3, 1, 0]), torch.tensor([0.0, 0.3, 1.0])
    task = build_task("image-classification", {"label_smoothing": 0.1})
    loss = task.loss(outputs, {"labels": labels, OTHER_LABELS: others, OTHER_SHARES: shares})
    one_hot = (torch.eye(4)[labels] * (1 - shares)[:, None] + torch.eye(4)[others] * shares[:, None]) * 0.9 + 0.1 / 4
    torch.testing.assert_close(loss, -(one_hot * logits.log_softmax(-1)).sum(1).mean())
    plain = build_task("image-classification").loss(outputs, {"labels": labels})
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(logits, labels))


# ------------------------------------------------------------------------------------------------ RandAugment


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_each_change_keeps_size_and_colours_and_all_but_identity_do_something(name, channels):
    rng = np.random.default_rng(0)
    pixels = (rng.random((16, 24, 3)) * 120 + np.linspace(30, 100, 24)[None, :, None]).astype(np.uint8)
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    results = [CHANGES[name](image, sign * STRENGTH) for sign in (-1, 1)]
    for result in results:
        assert (result.size, result.mode) == (image.size, image.mode)
    unchanged = name == "identity" or (name, channels) == ("color", 1) or name == "posterize"
    assert unchanged or any(result.tobytes() != image.tobytes() for result in results)


@pytest.mark.parametrize("channels", [1, 3])
def test_changes_depend_on_the_image_alone_and_differ_between_images_and_epochs(channels):
    picture = torch.randint(
        0, 256, (1, channels, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    images = picture.repeat(40, 1, 1, 1)
    changed = randaugment(images, ALL[:40], **MOMENT)
    assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
    assert len({image.numpy().tobytes() for image in changed}) > 20
    assert torch.equal(randaugment(images[:5], ALL[10:15], **MOMENT), changed[10:15])
    assert not torch.equal(randaugment(images, ALL[:40], seed=3, epoch=6), changed)


def test_a_recipe_asks_for_it_by_name():
    data = load_image_data(DataConfig(augmentation="randaugment", mean=[0.0], std=[1.0]))
    plain = data.train.with_augmentation(False)
    changed = data.train.__getitems__(range(20))["pixel_values"]
    assert changed.shape == (20, 1, 8, 8)
    assert not torch.equal(changed, plain.__getitems__(range(20))["pixel_values"])
    assert set(data.test[0]) == {"pixel_values", "labels"}
