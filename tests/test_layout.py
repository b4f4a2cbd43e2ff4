"""The package is built in one direction, quick to import, and quiet."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kpzoo"

# A module imports only from modules named before it. Packages whose parts meet in the dict contract alone are siblings.
ORDER = [
    "errors", "locks", "skeletons", "geometry", "heatmaps", "nms", "images", "sources", "drawing", "matching",
    "metrics", "charts", "pages", "poses", "outputs", "summary", "pose_model", "weights", "fresh", "importers",
    "registry", "models", "losses", "data", "doctor", "person_boxes", "detect", "streams", "graphs", "acceleration",
    "inference", "bulk", "averages", "callbacks", "runs", "devices", "training", "evaluation", "mistakes", "report",
    "export", "commands", "cli",
]  # fmt: skip
SIBLINGS = {"models", "losses", "importers"}
WITHOUT_TENSORFLOW = ["errors", "skeletons", "geometry", "nms", "images", "sources", "drawing", "poses", "outputs"]
WITHOUT_TENSORFLOW += [
    "metrics",
    "summary",
    "cli",
    "data.coco",
    "data.results",
    "data.files",
    "data.synthetic",
    "data.compose",
]


def home(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_modules(path: Path) -> set[str]:
    """The names below `kpzoo` that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kpzoo":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found & set(ORDER)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_from_earlier_ones(path):
    own = home(path)
    if own == "__init__":
        return
    assert own in ORDER, f"{own} has no place in ORDER"
    for other in imported_modules(path) - {own}:
        assert ORDER.index(other) < ORDER.index(own), f"{own} imports {other}, which comes later"
        assert not {own, other} <= SIBLINGS, f"{own} and {other} are siblings"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_raises_and_does_not_assert(path):
    assert not [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)


def test_importing_kpzoo_prints_nothing_and_loads_no_tensorflow():
    result = run("import kpzoo, sys; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_reading_scoring_and_drawing_need_no_tensorflow():
    imports = "".join(f"import kpzoo.{name}\n" for name in WITHOUT_TENSORFLOW)
    result = run(f"{imports}import sys; sys.exit('tensorflow' in sys.modules)")
    assert (result.returncode, result.stderr) == (0, "")


COMMANDS = ["", "models", "data", "data make", "data compose", "data pack", "data check", "data show", "train"]
COMMANDS += ["evaluate", "predict", "export", "convert", "doctor", "summary"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_and_needs_no_tensorflow(command):
    arguments = [*command.split(), "--help"]
    check = "assert 'tensorflow' not in sys.modules"
    code = f"import sys\nfrom kpzoo import cli\ntry:\n    cli.main({arguments})\nfinally:\n    {check}"
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert "usage: kpzoo" in result.stdout
    assert not command or command == "data" or "example:" in result.stdout
