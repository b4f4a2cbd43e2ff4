"""What a message advises exists where its reader stands: an option at the command line, an argument in Python."""

import argparse
import ast
import inspect
import re
from collections import defaultdict
from pathlib import Path

import pytest
from reliability_rows import row

import kpzoo
from kpzoo import cli, errors, files
from kpzoo.errors import UserError, unknown
from kpzoo.skeletons import COCO17, CROWDPOSE14, Skeleton

PACKAGE = Path(kpzoo.__file__).parent


def parsers(parser=None, name: tuple[str, ...] = ()) -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """The parser of each command, such as that of ("data", "check")."""
    parser = parser or cli.make_parser()
    parts = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not parts:
        return {name: parser}
    return {
        key: found for part, below in parts[0].choices.items() for key, found in parsers(below, (*name, part)).items()
    }


PARSERS = parsers()


def options_in(text: str) -> set[str]:
    """The options, such as --out, that a text names outside of whole commands such as `kpzoo data check --fix OUT`."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r"`[a-z]+ [^`]*`|'[^']*'", "", text)))


def check_advice(arguments, text: str) -> None:
    """A text that a command printed names no argument of a function, and no option of another command."""
    words = tuple(str(argument) for argument in arguments)
    (command,) = [name for name in PARSERS if words[: len(name)] == name] or [None]
    if command is None:  # argparse's own words
        return
    options = {option for action in PARSERS[command]._actions for option in action.option_strings}
    assert not re.search(r"`\w+=|`[\w.]*\w+\(|`kpzoo\.|`keras\.|\w=True\b", text), text
    assert options_in(text) <= options | set(words), (options_in(text) - options, text)


class Command:
    """The options of a command for tests."""

    def __init__(self, *options):
        self.options = options

    def __contains__(self, option):
        return option in self.options

    def of(self, argument, value):
        option = "--" + argument.replace("_", "-")
        return f"{option} {value}".strip() if option in self.options else None


def test_a_message_names_arguments_in_python_and_options_at_the_command_line():
    error = UserError(
        "`image_hw=` must be even.",
        "Pass `images='a'`.",
        "Use `kpzoo.build(name)`.",
        "Take --images-of FOLDER.",
        "Add it to the file.",
    )
    python = "`image_hw=` must be even. Pass `images='a'`. Use `kpzoo.build(name)`. Add it to the file."
    assert str(error) == python
    with errors.at_command_line(Command("--images", "--images-of")):
        assert str(error) == "image hw must be even. Pass --images 'a'. Take --images-of FOLDER. Add it to the file."
        with errors.at_command_line(Command("--image-hw")):
            assert str(error) == "--image-hw must be even. Add it to the file."
    assert str(error) == python
    copy = type(error)(*error.args)
    assert str(copy) == python


def test_advice_about_unknown_names_follows_the_same_rule():
    error = unknown("skeleton", "coco", ["coco17"], "Or pass a `kpzoo.skeletons.Skeleton`.", "")
    assert (
        str(error) == "Unknown skeleton. Received: 'coco'. Did you mean 'coco17'? Or pass a `kpzoo.skeletons.Skeleton`."
    )
    with errors.at_command_line(Command()):
        assert str(error) == "Unknown skeleton. Received: 'coco'. Did you mean 'coco17'?"


@pytest.mark.parametrize(
    ("command", "argument", "value", "option"),
    [
        ("train", "image_hw", "(64, 48)", "--image-size 64x48"),
        ("predict", "overwrite", "True", "--overwrite"),
        ("predict", "flip", "False", "--no-flip"),
        ("evaluate", "overwrite", "True", None),
        ("convert", "skeleton", "'coco17'", "--skeleton coco17"),
        ("convert", "levels", "", "--option levels=VALUE"),
        ("convert", "flavour", "'official'", "--option flavour=official"),
        ("convert", "overwrite", "True", None),
        ("convert", "head", "'new'", "--new-head"),
        ("train", "head", "'new'", None),
    ],
)
def test_commands_know_their_option_for_an_argument(command, argument, value, option):
    options = PARSERS[(command,)].get_default("options")
    assert options.of(argument, value) == option
    assert option is None or option.split()[0] in options


PUBLIC = [
    "data.load",
    "build",
    "predict",
    "stream",
    "Predictor",
    "evaluate",
    "training.run",
    "scenes.write_drawn",
    "scenes.write_composed",
]
PUBLIC += ["export.to_onnx", "export.to_savedmodel", "load_weights", "save_weights", "data.check.check"]


def arguments_of_functions() -> set[str]:
    """The names of the arguments of public functions."""
    names = set()
    for path in PUBLIC:
        value = kpzoo
        for part in path.split("."):
            value = (
                getattr(value, part) if hasattr(value, part) else __import__(f"{value.__name__}.{part}", fromlist=[""])
            )
        names |= set(inspect.signature(value).parameters)
    return names


# Keys of files and batches that are called as an argument is.
KEYS = {
    "weights",
    "images",
    "annotations",
    "skeleton",
    "category",
    "score",
    "scores",
    "keypoints",
    "flip_pairs",
    "boxes",
}


def texts_for_users() -> list[tuple[str, str]]:
    """Every literal text in what is raised, warned of, or added to the problems of a file: (place, text)."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rsplit(".", 1)[-1]
            if name in ("UserError", "unknown", "UnreadablePicture", "warn", "add", "say", "with_hint"):
                place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                parts = [part for part in ast.walk(node) if isinstance(part, ast.Constant) and type(part.value) is str]
                found += [(place, part.value) for part in parts]
    return found


def test_no_text_names_an_argument_as_if_it_were_a_key_of_a_file():
    arguments = arguments_of_functions() - KEYS
    wrong = [
        (place, word)
        for place, text in texts_for_users()
        if not place.startswith("commands/")
        for word in re.findall(r"`(\w+)`", text)
        if word in arguments
    ]
    assert not wrong, f"write `name=`: {wrong}"


def test_texts_of_the_library_with_options_are_advice_of_their_own():
    """An option in the first sentence of an error would be told in Python, too."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name == "commands":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("UserError", "warnings.warn"):
                literals = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
                wrong += [(path.name, node.lineno) for text in literals if type(text) is str and options_in(text)]
    assert not wrong


def in_words(node: ast.AST) -> str:
    """The text of an expression, with a word for each value that is known at run time only."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(in_words, node.values))
    if isinstance(node, ast.BinOp):
        return in_words(node.left) + in_words(node.right)
    if isinstance(node, ast.IfExp):
        return in_words(node.body)
    return "value"


def errors_of_the_package() -> list[tuple[str, UserError]]:
    """Every error for users that the package raises: (place, error)."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "UserError" and node.args:
                texts = [in_words(part) for part in node.args if not isinstance(part, ast.Starred)]
                found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", UserError(*texts)))
    return found


@row(
    89,
    "Any invalid input, at the command line",
    "The error names options of that command and no Python arguments",
)
@pytest.mark.parametrize("command", PARSERS, ids=" ".join)
def test_every_error_of_the_library_can_be_followed_at_every_command(command):
    for place, error in errors_of_the_package():
        if not place.startswith("commands/"):
            with errors.at_command_line(PARSERS[command].get_default("options")):
                check_advice(command, f"{error} ({place})")


def test_the_errors_of_commands_name_their_own_options():
    options = defaultdict(set)  # by module, "" for all
    for parser in PARSERS.values():
        for module in (parser.get_default("run").__module__.replace(".", "/"), ""):
            options[module] |= set(parser._option_string_actions)
    for place, error in errors_of_the_package():
        if place.startswith("commands/"):
            module = "kpzoo/" + place.partition(".")[0]
            assert options_in(str(error)) <= options.get(module, options[""]), (place, str(error))


def test_the_difference_of_two_skeletons_names_what_differs():
    names = list(COCO17.keypoints)
    names[1], names[2] = names[2], names[1]
    turned = Skeleton("person", tuple(names), COCO17.flip_pairs, COCO17.sigmas, ())
    told = COCO17.difference(turned)
    assert told == (
        "the same names in another order: numbers 2, 3 are ['right_eye', 'left_eye'] in place of "
        "['left_eye', 'right_eye']"
    )
    told = COCO17.difference(CROWDPOSE14)
    assert told == (
        "14 in place of 17 keypoints; new: ['head', 'neck']; missing: ['nose', 'left_eye', 'right_eye', 'left_ear', "
        "'right_ear']"
    )


def test_a_file_that_exists_is_replaced_by_the_option_that_the_command_has(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UserError) as raised, files.written_whole(tmp_path / "a", overwrite=False):
        pass
    assert str(raised.value).endswith("Or replace it with `overwrite=True`.")
    with errors.at_command_line(Command("--overwrite")):
        assert str(raised.value).endswith("Or replace it with --overwrite True.")
