"""What braindnorm raises when it cannot do what was asked, and what it warns with.

Every message says what was asked, what came, and what to do. Each class is also the builtin that a
caller would catch without knowing this module.
"""

from contextlib import ContextDecorator

__all__ = [
    "ArgumentError",
    "AxisError",
    "AxisNameError",
    "ConversionError",
    "DtypeError",
    "MaskError",
    "NormError",
    "NormWarning",
    "OptionError",
    "PackageError",
    "PhaseError",
    "UnitError",
]


class NormError(Exception):
    """The base of every error that braindnorm raises on purpose.

    Attributes
    ----------
    caller : str
        The layer or the function that was called. It stands before the message.
    """

    caller = ""

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.caller}: {message}" if self.caller else message


class named(ContextDecorator):
    """Let an error that leaves a block, or a function, say what the user has called.

    Where one such block is inside another, the outer one knows what the user has called.
    """

    def __init__(self, caller: str) -> None:
        self.caller = caller

    def __enter__(self) -> None:
        """Nothing is done unless an error comes."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        """Put the name on the error."""
        if isinstance(error, NormError):
            error.caller = self.caller


class OptionError(NormError, ValueError):
    """An option has a value that means nothing here."""


class ArgumentError(NormError, TypeError):
    """A call has an argument that the norm does not take."""


class AxisError(NormError, ValueError):
    """An axis or a size does not fit the array."""


class MaskError(NormError, ValueError):
    """A mask cannot be read, or does not fit the array in exactly one way."""


class UnitError(NormError, TypeError):
    """A physical unit is missing, or is of the wrong dimension."""


class DtypeError(NormError, TypeError):
    """A dtype that a norm has no meaning for."""


class AxisNameError(NormError, NameError):
    """A named (mapped) axis is not bound, or cannot be reduced here."""


class PhaseError(NormError, RuntimeError):
    """Nobody has said whether to train or to evaluate, or a compiled function would keep it for good."""


class ConversionError(NormError, ValueError):
    """A norm has an option that the framework it should go to, or come to, lacks."""


class PackageError(NormError, ImportError):
    """An optional package is needed and not installed."""


class NormWarning(UserWarning):
    """A norm is used in a way that is nearly always a mistake."""
