"""What training, evaluation and the command know of data, whatever it is of."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from neumeta_hf.errors import DataError

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
        """Return what a task draws a batch by: images as they look, or the tokenizer that reads a text."""
        ...


class RowSplit(Dataset):
    """A split whose rows are numbers of what it is a part of.

    Attributes:
        rows_are: What errors call them.
    """

    rows_are: ClassVar[str]
    name: str
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """As `Split` says."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """As `Split` says; nothing depends on the epoch unless a subclass says so."""

    def subset(self, num_rows: int, *, seed: int) -> Self:
        """Choose a random part.

        Args:
            num_rows: How many, at most the length.
            seed: Seed of the choice.

        Returns:
            A split of these rows.

        Raises:
            DataError: The split has fewer.
        """
        if not 0 <= num_rows <= len(self):
            raise DataError(f"{num_rows} {self.rows_are} were asked for, but the {self.name} split has {len(self)}.")
        other = copy.copy(self)
        other.indices = np.sort(np.random.default_rng(seed).permutation(self.indices)[:num_rows])
        return other

    def sample(self, num_rows: int) -> dict[str, Tensor]:
        """Rows as training sees them in its first epoch, chosen at random but the same at every call.

        Args:
            num_rows: How many; all of them where there are fewer.

        Returns:
            A batch.
        """
        chosen = self.subset(min(num_rows, len(self)), seed=0)
        chosen.set_epoch(0)
        return chosen.__getitems__(range(len(chosen)))


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, split.

    Attributes:
        train: What the network learns from; a stream where it is read as it comes.
        validation: What selection looks at.
        test: What is reported, once.
        label_names: Names of the classes, in order; none where no labels are read.
    """

    train: "Split | StreamSplit"
    validation: Split
    test: Split
    label_names: list[str]
