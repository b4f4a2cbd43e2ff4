"""What the README says is true: its Python runs, its commands exist, its links lead somewhere."""

import re
from pathlib import Path

import pytest

from kpzoo import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    names: dict = {}  # a reader has run the blocks above
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "(None, 32, 24, 17)" in out
    assert (tmp_path / "poses.png").exists()


def test_the_commands_of_the_readme_parse():
    lines = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("kpzoo ")]
    assert len(lines) >= 5
    for line in lines:
        arguments = [argument.strip("'") for argument in line.split()[1:]]
        if "COMMAND" not in line:
            assert cli.make_parser().parse_args(arguments).run


@pytest.mark.parametrize("target", sorted({t for t in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in t}))
def test_links_of_the_readme_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_the_two_commands_that_set_everything_up_are_there():
    assert "pip install . && python recipes/quickstart.py" in README
    assert "pip install '.[test]' && pytest" in README
    assert "pip install -q '.[test]' && pytest" in (ROOT / ".ci/run").read_text()
