"""The exception for mistakes that a user can correct: input, files, options."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Error in the input, with a message of one line: what is wrong, where, what was received and how to fix it.

    The command line prints the message without a traceback and exits with code 2.
    """


def unknown(kind: str, received: str, known: Iterable[str], hint: str = "") -> UserError:
    """Returns the error for a name that is not in `known`, with the closest names that are.

    >>> str(unknown("model name", "cpn_re50", ["cpn_res50", "hrnet_w32"]))
    "Unknown model name. Received: 'cpn_re50'. Did you mean 'cpn_res50'?"
    """
    known = sorted(known)
    near = get_close_matches(str(received), known, n=3, cutoff=0.6)
    choices = ", ".join(map(repr, near or known))
    help_text = f"Did you mean {choices}?" if near else f"Expected one of {choices}."
    return UserError(" ".join(filter(None, [f"Unknown {kind}. Received: {received!r}. {help_text}", hint])))
