"""What a recipe says of its data."""

import dataclasses
from typing import ClassVar, Literal, Self

from neumeta_hf.images import Interpolation

Labels = Literal["class", "mask", "none"]
Augmentation = Literal["none", "crop", "crop_flip", "scale_crop_flip", "random_resized_crop_flip", "randaugment"]


GENERATED = "generated"
"""Stands in `dataset` for text that the target itself writes, and is what a run calls the folder of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes the input of a network; the fields are those of `DataConfig`, with what applies without."""

    image_size: int | list[int] = 8
    center_crop: bool | int = False
    interpolation: Interpolation = "bilinear"
    num_channels: Literal[1, 3] = 1
    mean: list[float] = dataclasses.field(default_factory=lambda: [0.5])
    std: list[float] = dataclasses.field(default_factory=lambda: [0.5])


@dataclasses.dataclass(kw_only=True)
class DataConfig:
    """A data set of images, with a class each, with a mask each, or alone; or one of text.

    The task decides which of the two it is. Keys of the other kind must then be left out.

    Attributes:
        dataset: "digits" (scikit-learn's 8x8 digits, embedded), a Hub id, a local folder that `datasets.load_dataset`
            reads, or a file of text (parquet, JSON, CSV or plain). The digits have no columns and splits to name; a
            fixed fifth of them is the test split. Of plain text files each is one document. "generated" is text that
            the target's checkpoint, a causal language model, writes itself; a tenth of it is for testing unless
            `test_fraction` says otherwise.
        subset: Name of the data set's configuration, where it has several.
        labels: What goes along with an image: "class" (one number), "mask" (the index of a class for each pixel), or
            "none".
        image_column: Column of the images. None: the only one of type Image, or the only one beside the masks.
        label_column: Column of the classes or masks. None, for classes: the only one of type ClassLabel. Of a column of
            plain numbers or strings, which must be named, the sorted values of the training split are the classes.
            None, for masks: of two columns of type Image the one that is called "label", "labels", "mask", "annotation"
            or "segmentation". The pixels of masks are indices (grey, palette or 16-bit), not colours.
        label_names: Names of the classes of masks, in order. None: as `target.checkpoint` names them, and where it does
            not "0", "1", ... up to the highest value in the masks of the training split, all of which are then read
            once more for it; a value in between that none has is refused.
        mask_values: Name of the class of each value in masks, such as {0: background, 255: lesion}, instead of
            `label_names`; the order is that of the classes, and several values may have one name. Any other value is
            refused, unless it is ignored. Classes of batches count from 0, whatever their values.
        ignore_index: The value in masks that stands for no class, besides 255, which always does unless `mask_values`
            names it. In batches it is 255.
        train_split: Name of the training split. Splits may be slices and sums, such as train[:80%]; no two of them may
            share a row.
        test_split: Name of the split that is touched once, at the end; never the one that selection uses. None: "test",
            unless there is a `test_fraction`.
        test_fraction: Fraction of the training split that is cut off for testing, where a data set has no test split.
            Images with a class are cut class by class. The cut depends on no seed, so it is the same for everybody.
        validation_split: Split that selection uses. None: cut from the training split.
        validation_fraction: Fraction of the training split that is cut off for validation, unless `validation_split` is
            named. 0 leaves the validation split empty, which is an error where it is used, before anything is trained.
        data_seed: Seed of the cut and of the augmentation.
        image_size: Size of the images that the network gets: one number for height and width, or [height, width]. Where
            this and the next five are None, they are as `target.checkpoint` states them. Without a checkpoint they are
            8, False, "bilinear", 1, [0.5] and [0.5].
        center_crop: How images of another size are resized, here and in the image processor that is saved with the
            network. False: whole, whatever their aspect ratio. True: to cover 256/224 of `image_size`, then cropped at
            the centre, as is usual for ImageNet. A number such as 248: to that many pixels of the shorter side, then
            cropped. Processors of transformers do it for square RGB images with a class. Masks go the same way; each of
            their pixels is then the nearest one.
        interpolation: Interpolation of pixels, when images are resized or cropped by "random_resized_crop_flip":
            "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        num_channels: 1 (grey) or 3 (RGB); images are converted.
        mean: Mean of each channel, of values in [0, 1]. std: Per channel, of values in [0, 1].
        augmentation: Augmentation of training images; masks move along. "none". "crop": pad by an eighth of the size
            with black, and crop at random. "crop_flip": the same, and mirror half of them. "scale_crop_flip", usual for
            segmentation: scale by 0.5 to 2, crop at random or pad with black, mirror half. "random_resized_crop_flip":
            ImageNet's; it needs `in_memory` off, and has no masks. "randaugment": "crop_flip", and then two of 14
            changes of colours or place drawn for each image; it has no masks. In masks the padding is 255.
        mixup: Above 0, another image is mixed into each training image with a class, and the two classes count in the
            same ratio. The ratio is drawn from Beta(mixup, mixup). 0.2 is usual. 0: none.
        cutmix: Likewise, but the other image takes the place of a rectangle; 1.0 is usual. Where both are above 0, each
            is done to half of the images.
        in_memory: Decode once and keep all images; off for data sets larger than memory.
        max_image_pixels: The most pixels of an image or a mask in its file; a larger one is an error before it is
            decoded, since a small file can hold more than memory does.
        text_column: Column of the texts, a document a row. None: "text", or the only one of strings.
        text_columns: The two columns of pairs of sentences, such as [sentence1, sentence2].
        score_column: Column that says how alike the sentences of a pair are; larger is more alike.
        block_size: Tokens of a block that documents are packed into; of pairs, the most tokens of a sentence.
        tokenizer: A folder or Hub id of a tokenizer, or "characters": one token for each character of the training
            split. None: the tokenizer that lies beside the target's checkpoint.
        streaming: Read documents or images as they come, instead of all of them first: for what fits no memory. A loop
            then takes `max_steps`. Splits are named whole: none is cut, or a slice. Of images, classes are those of a
            column of type ClassLabel, and those of masks are named; mixup and cutmix mix those of a batch; BatchNorm
            statistics are of the first images. Rows that lie sorted by class make batches of one class.
        shuffle_blocks: Of a stream, how many blocks, or images in their files, are read ahead and mixed.
        kept_blocks: Of a stream, how many blocks or images of the validation and of the test split are kept, the first
            ones.
        generated_tokens: How many tokens the target writes.
        generated_temperature: At which it writes them; the seed is `data_seed`.
    """

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    dataset: str = "digits"
    subset: str | None = None
    labels: Labels = "class"
    image_column: str | None = None
    label_column: str | None = None
    label_names: list[str] | None = None
    mask_values: dict[int, str] | None = None
    ignore_index: int | None = None
    train_split: str = "train"
    test_split: str | None = None
    test_fraction: float | None = None
    validation_split: str | None = None
    validation_fraction: float = 0.1
    data_seed: int = 0
    image_size: int | list[int] | None = None
    center_crop: bool | int | None = None
    interpolation: Interpolation | None = None
    num_channels: Literal[1, 3] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    augmentation: Augmentation = "none"
    mixup: float = 0.0
    cutmix: float = 0.0
    in_memory: bool = True
    max_image_pixels: int = 100_000_000
    text_column: str | None = None
    text_columns: list[str] | None = None
    score_column: str | None = None
    block_size: int = 128
    tokenizer: str | None = None
    streaming: bool = False
    shuffle_blocks: int = 1024
    kept_blocks: int = 512
    generated_tokens: int = 1_000_000
    generated_temperature: float = 1.0

    @property
    def preprocessing(self) -> Preprocessing:
        """What applies: each field as it is said here, or its default."""
        names = [field.name for field in dataclasses.fields(Preprocessing)]
        return Preprocessing(**{name: value for name in names if (value := getattr(self, name)) is not None})

    def filled(self) -> Self:
        """Fill every field of `preprocessing` with the value that applies."""
        return dataclasses.replace(self, **dataclasses.asdict(self.preprocessing))
