"""The notebook runs from its first cell to its last, as a reader would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

TOUR = Path(__file__).resolve().parents[1] / "docs/tour.ipynb"

# Each cell in turn in one namespace; the value of a last expression is shown as a notebook would show it.
RUN = """
import ast, json, sys
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        tree = ast.parse("".join(cell["source"]), f"cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
            print(f"PNG {len(value._repr_png_())}" if hasattr(value, "_repr_png_") else "" if value is None else value)
"""


def test_every_cell_of_the_tour_runs(tmp_path):
    environment = {**os.environ, "KPZOO_TOUR": "quick", "TMPDIR": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(TOUR)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert result.returncode == 0, result.stderr[-2000:]
    shown = result.stdout
    for expected in ("cpn_res50", "AP50", "inversion", "Poses(", "serving/cpn/1"):
        assert expected in shown
    assert shown.count("PNG ") == 2


def test_the_tour_is_kept_without_outputs():
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    assert len(cells) > 10
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
