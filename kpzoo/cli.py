"""The command line: each command is a module of `kpzoo.commands`, over functions that Python has as well.

TensorFlow is imported by the commands that need it, and silently. Exit codes: 0 done, 2 a mistake in what was asked or
something that could not be read, 1 a fault of kpzoo, 130 stopped by Ctrl-C or SIGTERM.
"""

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import kpzoo
from kpzoo.commands import data, evaluate, export, models, predict, summary, train, weights
from kpzoo.errors import UserError

COMMANDS = (
    models.add, data.add, train.add, summary.add, evaluate.add, predict.add, export.add, weights.add_convert,
    weights.add_doctor,
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what could follow
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    try:
        with _termination_as_interrupt(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"kpzoo: warning: {message}", file=sys.stderr)
            code = args.run(args) or 0
            sys.stdout.flush()
    except UserError as error:
        print(f"kpzoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kpzoo: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        print(f"kpzoo: error: {error.filename or 'A file'}: {error.strerror}. Check the path, its rights and the free "
              "space.", file=sys.stderr)  # fmt: skip
        return 2
    return code


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Lets SIGTERM, as a scheduler sends it, end a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kpzoo", description="Top-down 2D human pose estimation in Keras.")
    parser.add_argument("--version", action="version", version=f"kpzoo {kpzoo.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser
