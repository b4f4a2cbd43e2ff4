"""The `kpzoo` command. Each subcommand is a module of `kpzoo.commands` and calls a public function of the package.

TensorFlow is imported only by the commands that need it, without its log messages. Exit codes: 0 success; 1 an error in
kpzoo, or an export that differs from its model; 2 a mistake in the arguments or the input; 130 Ctrl-C or SIGTERM.
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
from kpzoo.commands import cache, data, detect, evaluate, export, models, predict, serve, summary, train, weights
from kpzoo.errors import UserError, at_command_line, worded
from kpzoo.files import prepare_streams

COMMANDS = (
    models.add, data.add, train.add, summary.add, evaluate.add, detect.add, predict.add, export.add, serve.add,
    weights.add_convert, weights.add_doctor, cache.add,
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    prepare_streams()
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # called by shell completion
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    for name, value in vars(args).items():  # shells leave the ~ of --out=~/run
        if isinstance(value, str) and value.startswith("~"):
            setattr(args, name, os.path.expanduser(value))
    with at_command_line(args.options):
        return _exit_code(args)


def _exit_code(args: argparse.Namespace) -> int:
    """Runs a command, tells what stopped it, and returns its exit code."""
    try:
        with _termination_as_interrupt(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"kpzoo: warning: {worded(str(message))}", file=sys.stderr)
            code = args.run(args) or 0
            sys.stdout.flush()
    except UserError as error:
        print(f"kpzoo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kpzoo: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        print(f"kpzoo: error: {error.filename or 'A file'}: {error.strerror}. Check the path, its permissions and the "
              "free disk space.", file=sys.stderr)  # fmt: skip
        return 2
    return code


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Makes SIGTERM, which job schedulers send, raise `KeyboardInterrupt` as Ctrl-C does."""
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
