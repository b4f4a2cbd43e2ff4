"""What documentation and docstrings say is true: programs run, commands exist, links lead somewhere."""

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest

import kpzoo
from kpzoo import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
PROGRAMS = [page for page in PAGES if page.parent.name == "programs" and page.name != "README.md"]


def run_python(page: Path) -> None:
    """Executes the Python of a page, each block after those above it."""
    names: dict = {"__name__": page.stem}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_python(ROOT / "README.md")
    assert "(None, 32, 24, 17)" in capsys.readouterr().out
    assert (tmp_path / "poses.png").exists()


# What a program prints, or the file that it writes.
OUTCOMES = {
    "one_photo": "poses.png",
    "own_data": "people.keras",
    "own_augmentation": "(8, 64, 64, 3)",
    "own_loss": "smooth_l1",
    "own_network": "loss",
    "features": "(2, 10)",
    "score_results": "AP75",
    "oks_nms": "[0 2]",
    "server_loop": "51",
    "own_detector": "2",
}


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.stem)
def test_the_programs_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_python(page)
    expected = OUTCOMES[page.stem]
    assert expected in capsys.readouterr().out or (tmp_path / expected).exists()


def test_the_index_of_the_programs_is_complete():
    index = (ROOT / "docs/programs/README.md").read_text()
    assert {name for name in re.findall(r"\]\(([^)]+)\)", index)} == {page.name for page in PROGRAMS}
    assert {page.stem for page in PROGRAMS} == set(OUTCOMES)


COMMANDS = sorted({line for page in PAGES for line in page.read_text().splitlines() if line.startswith("kpzoo ")})


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_parse(line):
    arguments = shlex.split(line, comments=True)[1:]
    if "COMMAND" not in line:
        assert cli.make_parser().parse_args(arguments).run


LINKS = sorted(
    {
        (str(page.relative_to(ROOT)), target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target
    }
)


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_links_lead_somewhere(page, target):
    assert ((ROOT / page).parent / target).exists()


def test_the_readme_lists_all_models():
    listed = set(re.findall(r"`([a-z0-9_]+)`", README.partition("## Models")[2].partition("`kpzoo models")[0]))
    assert listed == {name for name in kpzoo.list_models() if not name.endswith("_tiny")}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_the_two_commands_that_set_everything_up_are_there():
    assert "pip install . && python recipes/quickstart.py" in README
    assert "pip install '.[test]' && pytest" in README
    assert "pip install -q '.[test]' && pytest" in (ROOT / ".ci/run").read_text()


EXAMPLES = ["errors", "inference.smoothing", "inference.tracking", "models.registry", "nms", "pose_model", "poses"]
EXAMPLES += ["scenes.drawn", "scenes.drawn_video", "skeletons"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"kpzoo.{name}")
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted and not found.failed
