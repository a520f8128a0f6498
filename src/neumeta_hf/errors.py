"""The errors that this library raises: each message gives the value, the rule and the way out."""

from neumeta_hf.printable import printable


class NeuMetaError(ValueError):
    """Base of all errors of this library; the `neumeta` command turns it into one line and exit code 2.

    Args:
        message: What is wrong and the way out, in the words of Python where they are needed.
        command: The same in the words of the command line, where its way out is another. None: as `message`.

    Attributes:
        command: What the `neumeta` command says.
    """

    def __init__(self, message: object = "", *, command: str | None = None):
        super().__init__(message)
        self.command = str(message) if command is None else command


class SizeError(NeuMetaError):
    """A width or a number of channels that no network of the family can have."""


class TargetError(NeuMetaError):
    """An unknown target family, or a config or weights that do not fit the family."""


class PreparationError(NeuMetaError):
    """A reference that cannot be prepared, or whose function preparation would change."""


class HypernetworkError(NeuMetaError):
    """An unknown hypernetwork, or options and coordinates that do not fit it."""


class CheckpointError(NeuMetaError):
    """A checkpoint that lacks a part, has a part that does not belong to it, or is of another kind."""


class MissingCheckpointError(CheckpointError, OSError):
    """A checkpoint, or a file of it, that is not there; an OSError too, which is what transformers raises."""


class RecipeError(NeuMetaError):
    """A recipe with an unknown key, a missing key or a value of the wrong kind."""


class DataError(NeuMetaError):
    """A data set that cannot be read as the recipe says."""

    def __init__(self, message: object = "", *, command: str | None = None):
        # What a worker of a DataLoader raises is raised anew with the worker's traceback for a message, whose last
        # line has ours.
        text = str(message)
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(text.rpartition(name)[2].strip() if text.startswith("Caught ") else text, command=command)


class HubError(NeuMetaError):
    """The Hub refuses, or cannot be reached."""


class CardError(NeuMetaError):
    """A model card that cannot be read or merged."""


def one_line(message: object, *, most: int = 300) -> str:
    """Shorten what an error or a warning says to a line that another error can quote.

    Args:
        message: The error, or anything that reads as text.
        most: Characters kept; other libraries name every choice that they have.

    Returns:
        One line, inert on a terminal whatever names it quotes; the name of its class where it says nothing.
    """
    return printable(" ".join(str(message).split()))[:most] or type(message).__name__
