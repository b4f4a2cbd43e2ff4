"""The one exception for what a user can mend: input, files, options."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in what kpzoo was given, told in one line: what, where, received, expected, how to fix.

    The command line prints the message without a traceback and exits with code 2.
    """


def unknown(kind: str, received: str, known: Iterable[str], hint: str = "") -> UserError:
    """Returns the error for a name that is not in `known`, with the nearest names that are.

    >>> str(unknown("model name", "cpn_re50", ["cpn_res50", "hrnet_w32"]))
    "Unknown model name. Received: 'cpn_re50'. Did you mean 'cpn_res50'?"
    """
    known = sorted(known)
    near = get_close_matches(str(received), known, n=3, cutoff=0.6)
    choices = ", ".join(map(repr, near or known))
    help_text = f"Did you mean {choices}?" if near else f"Expected one of {choices}."
    return UserError(" ".join(filter(None, [f"Unknown {kind}. Received: {received!r}. {help_text}", hint])))
