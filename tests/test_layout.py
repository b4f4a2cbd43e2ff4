"""The package is built in one direction, quick to import, and quiet."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kpzoo

PACKAGE = Path(__file__).resolve().parents[1] / "kpzoo"

# Floors, the lowest first. A package or module imports only from those named before it; on the top floor of stations
# they are siblings, which do not import each other.
ORDER = [
    ["errors", "keras_setup", "lazy", "progress", "geometry", "html"],
    [
        "skeletons",
        "files",
        "stores",
        "pose_formats",
        "keras_batches",
        "replicas",
        "heatmaps",
        "nms",
        "boxes",
        "images",
        "video_file",
        "crops",
    ],
    ["drawing", "pose_model"],
    ["poses", "losses", "weights", "data"],
    ["models", "scenes", "inference", "convert"],
    ["evaluation", "export", "training"],
    ["distributed"],
    ["commands"],
    ["cli"],
]
SIBLINGS = {"evaluation", "export", "training"}
ORDER = [name for floor in ORDER for name in floor]
WITHOUT_TENSORFLOW = ["errors", "skeletons", "geometry", "nms", "images", "inference.pictures", "drawing", "poses"]
WITHOUT_TENSORFLOW += [
    "inference.outputs",
    "evaluation.metrics",
    "evaluation.scoring",
    "training.summary",
    "training.defaults",
    "cli",
    "data.coco",
]
WITHOUT_TENSORFLOW += ["data.results", "data.files", "scenes.drawn", "scenes.composed", "evaluation.scoring"]
WITHOUT_TENSORFLOW += ["distributed.run", "distributed.worker", "distributed.serving", "stores", "data.parts"]
WITHOUT_TENSORFLOW += ["scenes.drawn_video", "evaluation.identities", "inference.tracking", "inference.smoothing"]


def module(path: Path) -> str:
    """The dotted name of a file below `kpzoo`: "data.coco", or "data" for `data/__init__.py`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(path: Path) -> set[str]:
    """The modules below `kpzoo` that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kpzoo":
            base = node.module.partition(".")[2]
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                found.add(name if name in MODULES else base)
    return found - {""}


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_modules_import_only_from_earlier_ones(name):
    own = name.split(".")[0]
    assert own in ORDER, f"{own} has no place in ORDER"
    for other in {other.split(".")[0] for other in imported_modules(MODULES[name])} - {own}:
        assert ORDER.index(other) < ORDER.index(own), f"{own} imports {other}, which comes later"
        assert not {own, other} <= SIBLINGS, f"{own} and {other} are siblings"


def test_modules_import_each_other_in_no_circle():
    imports = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    while leaves := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in leaves:
            imports.pop(name)
    assert not imports, f"circles among {sorted(imports)}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_raises_and_does_not_assert(path):
    assert not [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]


def _without_encoding(call: ast.Call) -> bool:
    """Returns whether a call reads or writes text in the encoding of the locale."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    given = {word.arg for word in call.keywords} | {"encoding" for text in texts if str(text).startswith("utf-8")}
    if name == "open":  # of a path, or the builtin, whose mode comes second; what is no constant may be a mode
        modes = call.args if isinstance(call.func, ast.Attribute) else call.args[1:]
        return "encoding" not in given and all(
            isinstance(mode, ast.Constant) and "b" not in str(mode.value) for mode in modes
        )
    return name in ("read_text", "write_text") and "encoding" not in given


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_text_files_name_their_encoding(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if _without_encoding(call)] == []


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)


def test_importing_kpzoo_prints_nothing_and_loads_no_tensorflow():
    result = run("import kpzoo, sys; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(("old", "new"), [("detect", "detectors"), ("importers", "weights")])
def test_old_names_still_work_and_name_the_new_one(old, new):
    with pytest.warns(DeprecationWarning, match=f"`kpzoo.{old}` is now `kpzoo.{new}`") as caught:
        assert getattr(kpzoo, old) is getattr(kpzoo, new)
    assert caught[0].filename == __file__ and old not in dir(kpzoo)


def test_reading_scoring_and_drawing_need_no_tensorflow():
    imports = "".join(f"import kpzoo.{name}\n" for name in WITHOUT_TENSORFLOW)
    result = run(f"{imports}import sys; sys.exit('tensorflow' in sys.modules or 'ray' in sys.modules)")
    assert (result.returncode, result.stderr) == (0, "")


COMMANDS = [
    "",
    "models",
    "data",
    "data make",
    "data compose",
    "data pack",
    "data check",
    "data show",
    "data convert",
    "data stats",
]
COMMANDS += ["train", "evaluate", "predict", "export", "serve", "convert", "doctor", "summary", "weights"]
COMMANDS += [f"weights {part}" for part in ("list", "fetch", "verify", "clear")]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_and_needs_no_tensorflow(command):
    arguments = [*command.split(), "--help"]
    check = "assert 'tensorflow' not in sys.modules"
    code = f"import sys\nfrom kpzoo import cli\ntry:\n    cli.main({arguments})\nfinally:\n    {check}"
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert "usage: kpzoo" in result.stdout
    assert command in ("", "data", "weights") or "example:" in result.stdout
