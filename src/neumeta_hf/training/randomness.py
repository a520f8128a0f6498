"""The state of a process's random numbers: Python's, NumPy's, torch's, and its device's."""

import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

logger = logging.getLogger(__name__)

_PYTHON_VERSION = 3  # of `random.getstate()`


@dataclasses.dataclass(kw_only=True)
class RandomNumbers:
    """What a process's random state holds beside tensors.

    Attributes:
        python_gauss: The normal number that Python has drawn ahead.
        numpy_position: Where in its state NumPy is.
        numpy_has_gauss: Whether NumPy has drawn a normal number ahead.
        numpy_gauss: That number.
        device: Kind of the device, such as "cuda", if it has random numbers of its own.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    python_gauss: float | None
    numpy_position: Annotated[int, Field(ge=0, le=624)]
    numpy_has_gauss: Annotated[int, Field(ge=0, le=1)]
    numpy_gauss: float
    device: Annotated[str, Field(pattern="^[a-z]{1,20}$")] | None


@dataclasses.dataclass(frozen=True)
class RandomState:
    """The random state of one process.

    Attributes:
        tensors: "python", "numpy", "torch", and "device" where that has one.
        numbers: The rest.
    """

    tensors: Mapping[str, Tensor]
    numbers: RandomNumbers

    @classmethod
    def of_now(cls, device: torch.device) -> "RandomState":
        """Take the state as it is.

        Args:
            device: Device of this process.

        Returns:
            A copy of the state.
        """
        _, python, python_gauss = random.getstate()
        _, keys, position, has_gauss, gauss = np.random.get_state()
        tensors = {
            "python": torch.tensor(python),
            "numpy": torch.from_numpy(keys.astype(np.int64)),  # pyright: ignore[reportAttributeAccessIssue]
            "torch": torch.get_rng_state(),
        }
        has_own = device.type != "cpu"  # where torch itself draws
        if has_own:
            tensors["device"] = torch.get_device_module(device).get_rng_state()
        numbers = RandomNumbers(
            python_gauss=python_gauss,
            numpy_position=int(position),
            numpy_has_gauss=int(has_gauss),
            numpy_gauss=float(gauss),
            device=device.type if has_own else None,
        )
        return cls(tensors, numbers)

    @classmethod
    def of_process(
        cls, rank: int, numbers: Sequence[RandomNumbers], tensors: Mapping[str, Tensor], *, device: torch.device
    ) -> "RandomState":
        """Take a process's state from that of all, and check it.

        Args:
            rank: Number of the process.
            numbers: Random numbers of every process.
            tensors: Tensors of every process, "<rank>.<name>".
            device: Device of the process.

        Returns:
            The state of the process; `restore` takes it.

        Raises:
            ValueError: A state is missing, is one too many, or is none.
        """
        expected = {
            f"{process}.{name}"
            for process, part in enumerate(numbers)
            for name in ("python", "numpy", "torch", *(["device"] if part.device else []))
        }
        if any(part.device == "cpu" for part in numbers):
            raise ValueError("a CPU has no random numbers of a device")
        if expected != tensors.keys():
            raise ValueError(f"it holds {sorted(tensors)[:9]} instead of {sorted(expected)[:9]}")
        mine = {key.partition(".")[2]: tensor for key, tensor in tensors.items() if key.partition(".")[0] == str(rank)}
        state = cls(mine, numbers[rank])
        try:
            random.Random().setstate(state._python())
            np.random.RandomState().set_state(state._numpy())
            torch.Generator().set_state(mine["torch"])
            if state.numbers.device == device.type:
                torch.Generator(device).set_state(mine["device"])
        except (ValueError, OverflowError, TypeError, RuntimeError) as error:
            raise ValueError(str(error)) from error
        if (saved := state.numbers.device or "cpu") != device.type:
            logger.warning(
                "The state was saved on %s and goes on on %s, where random numbers start anew: the result will not be "
                "bit-equal to that of an uninterrupted run.",
                saved,
                device.type,
            )
        return state

    def restore(self, device: torch.device) -> None:
        """Go on drawing where the state was taken.

        Args:
            device: Device of this process.
        """
        random.setstate(self._python())
        np.random.set_state(self._numpy())
        torch.set_rng_state(self.tensors["torch"])
        if self.numbers.device == device.type:
            torch.get_device_module(device).set_rng_state(self.tensors["device"])

    def _python(self) -> tuple[int, tuple[int, ...], float | None]:
        return _PYTHON_VERSION, tuple(self.tensors["python"].tolist()), self.numbers.python_gauss

    def _numpy(self) -> tuple[str, Any, int, int, float]:
        numbers, keys = self.numbers, self.tensors["numpy"]
        if keys.dtype != torch.int64 or keys.shape != (624,) or keys.min() < 0 or keys.max() >= 2**32:
            raise ValueError("NumPy's random state is not valid")
        key = keys.numpy().astype(np.uint32)
        return "MT19937", key, numbers.numpy_position, numbers.numpy_has_gauss, numbers.numpy_gauss
