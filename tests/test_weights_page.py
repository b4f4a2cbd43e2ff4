"""docs/weights.md lists every row of the tables of published weights.

python tests/test_weights_page.py --write     # rewrites the tables of docs/weights.md
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from kpzoo.models import list_models, registry
from kpzoo.weights import published

PAGE = Path(__file__).resolve().parents[1] / "docs/weights.md"
BEGIN, END = "<!-- written by tests/test_weights_page.py --write -->\n", "<!-- end of the tables -->\n"
STATED = {tag: row for tag, row in published.ROWS.items() if row.stated}


def size(row) -> str:
    return "{}x{}".format(*row.image_hw)


def linked(tag: str, row) -> str:
    return f"[`{tag}`]({row.url})"


def table(columns: Mapping[str, Callable], rows: Mapping) -> Iterable[str]:
    """Yields the lines of a Markdown table: the columns by title, each a function of a tag and its row."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{' :-- |' * len(columns)}"
    for tag, row in sorted(rows.items()):
        yield f"| {' | '.join(column(tag, row) for column in columns.values())} |"
    yield ""


POSES = {
    "tag": linked,
    "crop": lambda tag, row: size(row),
    "metrics of the authors": lambda tag, row: row.figures,
    "digest": lambda tag, row: row.digest,
}
TRUNKS = {
    "tag": linked,
    "`weights=`": lambda tag, row: f"`{word_of(row)}`",
    "models": lambda tag, row: ", ".join(f"`{name}`" for name in models_of(tag, row)) or "of other options, see below",
    "digest": lambda tag, row: row.digest,
    "licence": lambda tag, row: row.license,
}
DETECTORS = {
    "tag": linked,
    "`--detector`": lambda tag, row: f"`{row.detector}`",
    "input": lambda tag, row: size(row),
    "licence": lambda tag, row: row.license,
}


def word_of(row) -> str:
    return next(word for word, sources in published.TRUNK_WORDS.items() if row.source in sources)


def models_of(tag: str, row) -> list[str]:
    options = {name: registry.spec_of(name).options(name, {}) for name in list_models()}
    return [name for name in options if published.trunk_tag(word_of(row), options[name]) == tag]


def tables() -> str:
    lines = ["", "### Poses", ""]
    groups: dict = {}
    for tag, row in sorted(STATED.items()):
        groups.setdefault((row.skeleton, row.origin, row.metric, row.boxes, row.license), {})[tag] = row
    for (skeleton, origin, metric, boxes, terms), rows in sorted(groups.items()):
        lines += [f"**{origin}, skeleton `{skeleton}`.** Metric: {metric}. Boxes: {boxes}. Licence: {terms}.", ""]
        lines += table(POSES, rows)
    lines += ["### ImageNet trunks, to start a training from", "", *table(TRUNKS, published.TRUNKS)]
    lines += ["### Person detectors in ONNX format", "", *table(DETECTORS, published.DETECTORS)]
    return "\n".join(lines) + "\n"


def page() -> str:
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return before + BEGIN + tables() + END + rest.partition(END)[2]


def test_the_page_lists_the_rows_of_all_tables():
    assert PAGE.read_text("utf-8") == page(), "run `python tests/test_weights_page.py --write`"
    for tag in {**STATED, **published.TRUNKS, **published.DETECTORS}:
        assert f"[`{tag}`]" in page()


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    PAGE.write_text(page(), "utf-8")
