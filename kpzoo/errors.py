"""The exception for mistakes that a user can correct: input, files, options.

A text for users names an argument of a function as `name=` or `name=value`, in backticks and with the sign; backticks
without the sign are keys of files. Python shows it so. Within `at_command_line` the command's option takes its place.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Protocol

_ARGUMENT = re.compile(r"`(\w+)=([^`]*)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_PYTHON = re.compile(r"`(kpzoo|keras|keras_hub|tf|np)\.|`[\w.]+\(")


class Options(Protocol):
    """What a command offers: `option in options` for one such as "--overwrite"."""

    def __contains__(self, option: str) -> bool: ...

    def of(self, argument: str, value: str) -> str | None:
        """Returns the option for an argument and its value in a text, or ""; None if there is none."""


_command: Options | None = None  # which users read the texts of: that command's, or Python's


@contextmanager
def at_command_line(options: Options) -> Iterator[None]:
    """Context manager in which texts name the options of a command in place of the arguments of functions."""
    global _command
    before, _command = _command, options
    try:
        yield
    finally:
        _command = before


def worded(text: str) -> str:
    """Returns a text with options for arguments at the command line; of an argument without one the name stays."""
    if _command is None:
        return text
    return _ARGUMENT.sub(lambda found: _command.of(*found.groups()) or found[1].replace("_", " "), text)


def _is_possible(advice: str) -> bool:
    """Returns whether the reader of a sentence can do what it says."""
    options = _OPTION.findall(advice)
    if _command is None:
        return not options
    known = all(_command.of(*found) for found in _ARGUMENT.findall(advice))
    return known and not _PYTHON.search(advice) and all(option in _command for option in options)


class UserError(ValueError):
    """Error in the input, with a message of one line: what is wrong, where, what was received and how to fix it.

    The command line prints the message without a traceback and exits with code 2.

    Args:
        message: What, where, received and expected.
        advice: Sentences, one per way to fix it. A sentence that names a function, such as `kpzoo.build`, is shown in
            Python only; one that names an option, such as --overwrite, by commands with this option only; one that
            names an argument, in Python and by commands with an option for it.
    """

    def __init__(self, message: str, *advice: str):
        super().__init__(message, *filter(None, advice))

    def __str__(self) -> str:
        message, *advice = self.args
        return worded(" ".join([message, *filter(_is_possible, advice)]))


def unknown(kind: str, received: str, known: Iterable[str], *advice: str) -> UserError:
    """Returns the error for a name that is not in `known`, with the closest names that are.

    >>> str(unknown("model name", "cpn_re50", ["cpn_res50", "hrnet_w32"]))
    "Unknown model name. Received: 'cpn_re50'. Did you mean 'cpn_res50'?"
    """
    known = sorted(known)
    near = get_close_matches(str(received), known, n=3, cutoff=0.6)
    choices = ", ".join(map(repr, near or known))
    help_text = f"Did you mean {choices}?" if near else f"Expected one of {choices}."
    return UserError(f"Unknown {kind}. Received: {received!r}. {help_text}", *advice)
