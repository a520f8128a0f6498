"""What a recipe says of its data."""

import dataclasses
from typing import ClassVar, Literal

Augmentation = Literal["none", "crop", "crop_flip", "random_resized_crop_flip"]


@dataclasses.dataclass(kw_only=True)
class DataConfig:
    """An image-classification data set.

    Attributes:
        dataset: "digits" (scikit-learn's 8x8 digits, embedded), a Hub id, or a local folder that
            `datasets.load_dataset` reads. The digits have no columns and splits to name; a fixed fifth of them is the
            test split.
        subset: Name of the data set's configuration, where it has several.
        image_column: Column of the images. None: the only one of type Image.
        label_column: Column of the classes. None: the only one of type ClassLabel. Of a column of plain numbers or
            strings, which must be named, the sorted values of the training split are the classes.
        train_split: Name of the training split.
        test_split: Name of the split that is touched once, at the end; never the one that selection uses.
        validation_split: Split that selection uses. None: cut from the training split.
        validation_fraction: How much of the training split is cut off for validation, unless `validation_split` is
            named. 0 leaves the validation split empty, which is an error where it is used.
        data_seed: Of the cut and of the augmentation.
        image_size: Height and width that the network gets. Square images of another size are resized whole. Of images
            that are not square, and of all images when `augmentation` is "random_resized_crop_flip", the shorter side
            is resized to 256/224 of `image_size` and the centre is cropped, as is usual for ImageNet.
        num_channels: 1 (grey) or 3 (RGB); images are converted.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].
        augmentation: Of training images: "none", "crop" (pad by an eighth of the size with black, crop at random),
            "crop_flip" (and mirror half of them), "random_resized_crop_flip" (ImageNet's; needs
            `in_memory` off).
        in_memory: Decode once and keep all images; off for data sets larger than memory.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    dataset: str = "digits"
    subset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    validation_split: str | None = None
    validation_fraction: float = 0.1
    data_seed: int = 0
    image_size: int = 8
    num_channels: Literal[1, 3] = 1
    mean: list[float] = dataclasses.field(default_factory=lambda: [0.5])
    std: list[float] = dataclasses.field(default_factory=lambda: [0.5])
    augmentation: Augmentation = "none"
    in_memory: bool = True
