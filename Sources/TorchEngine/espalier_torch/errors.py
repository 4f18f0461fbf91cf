"""Errors that end a command with one sentence."""


AGAIN = 75
"""Exit code of a run that a signal has stopped and that is to be started again (EX_TEMPFAIL of sysexits.h)."""


class EngineError(Exception):
    """A fault of the input: file, key, expected, found, next step, in one sentence."""


def not_finite(place: str) -> EngineError:
    """The error for a tensor of a file with values that are not finite."""
    return EngineError(
        f"{place} holds a value that is not finite; use a checkpoint from before the training diverged, or fetch the"
        " file again"
    )
