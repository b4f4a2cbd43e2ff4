"""SECURITY.md promises what tests keep, and the package has no way to run what it reads."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECURITY = (ROOT / "SECURITY.md").read_text()

# Decodes a video of doubtful length again, in this Python: fixed code, the file as an argument, no shell.
STARTING = {"inference/videos.py": {"subprocess"}}
FORBIDDEN_IMPORTS = {
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "subprocess",
    "multiprocessing",
    "ctypes",
    "runpy",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "open_code"}  # the built-in ones
FORBIDDEN_METHODS = {"system", "popen", "model_from_json", "unsafe_load", "extractall", "enable_unsafe_deserialization"}
FORBIDDEN_METHODS |= {"models.load_model", "saving.load_model", "pickle.load", "pickle.loads"}
UNPICKLING = {"weights/pickles.py", "weights/files.py"}  # the restricted reader, and the errors that it raises


def names_of_tests(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_each_promise_names_tests_that_exist():
    promises = SECURITY.split("## What is promised")[1].split("## What is not promised")[0]
    paragraphs = [paragraph for paragraph in re.split(r"\n\* ", promises)[1:]]
    assert len(paragraphs) >= 6
    for paragraph in paragraphs:
        named = re.findall(r"`(tests/\w+\.py)::(\w+)`", paragraph)
        assert named, paragraph
        for path, name in named:
            assert name in names_of_tests(ROOT / path), f"{path}::{name}"


@pytest.mark.parametrize("path", sorted((ROOT / "kpzoo").rglob("*.py")), ids=lambda path: path.stem)
def test_the_package_evaluates_unpickles_and_starts_nothing(path):
    own = path.relative_to(ROOT / "kpzoo").as_posix()
    for node in ast.walk(ast.parse(path.read_text())):
        names = set()
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = {(node.module or "").split(".")[0]}
        assert not names & FORBIDDEN_IMPORTS - STARTING.get(own, set()), (own, node.lineno)
        assert "pickle" not in names or own in UNPICKLING, (own, node.lineno)
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") not in FORBIDDEN_CALLS, (own, node.lineno)
            method = ast.unparse(node.func).split(".")
            assert not {method[-1], ".".join(method[-2:])} & FORBIDDEN_METHODS or len(method) == 1, (own, node.lineno)
            pickled = [word.value.value for word in node.keywords if word.arg == "allow_pickle"]
            assert pickled in ([], [False]), (own, node.lineno)


def test_dependencies_start_behind_their_advisories():
    demanded = dict(re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "setup.py").read_text()))
    for package, fixed in {"keras": "3.13.2", "tensorflow": "2.8"}.items():
        assert numbers(demanded[package]) >= numbers(fixed)
        assert package in SECURITY.lower()
    assert f"`keras>={demanded['keras']}`" in SECURITY
    assert "hypothesis" in demanded


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
