"""What training, evaluation and the command know of data, whatever it is of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from neumeta_hf.data.streams import StreamSplit


class Split(Protocol):
    """A part of a data set, which gives batches by position.

    Attributes:
        name: For messages.
        indices: Numbers of its rows in what it is a part of.
        evaluation_batch_size: Rows of a forward pass that fit into the memory of most machines.
    """

    name: str
    indices: np.ndarray
    evaluation_batch_size: int

    def __len__(self) -> int: ...

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """A batch, collated: what networks take, and what tasks compare their outputs with."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that decides what is random in batches."""
        ...

    def sample(self, num_rows: int) -> dict[str, Tensor]:
        """Rows as training sees them in its first epoch, the same at every call."""
        ...

    def shown(self, batch: Mapping[str, Tensor]) -> Any:
        """What a task draws a batch by: images as they look, or the tokenizer that reads a text."""
        ...


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, split.

    Attributes:
        train: What the network learns from; a stream where it is read as it comes.
        validation: What selection looks at.
        test: What is reported, once.
        label_names: Of the classes, in order; none where no labels are read.
    """

    train: "Split | StreamSplit"
    validation: Split
    test: Split
    label_names: list[str]
