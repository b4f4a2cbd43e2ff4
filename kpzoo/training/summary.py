"""Summary of a training run as one self-contained HTML file: metrics, curves, predictions and settings."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from kpzoo.errors import UserError
from kpzoo.files import writing
from kpzoo.html import charts, pages

RECORD, LOG, SHEET, PAGE = "run.json", "log.csv", "predictions.jpg", "summary.html"  # in the run folder
RELOAD_S = 30  # seconds after which a browser reloads the page of an unfinished run
SHEET_NOTE = "Validation crops: annotations, predictions and heatmaps. The second person of a crop is dashed."

_LOWER_IS_BETTER = ("loss", "val_loss")
_NEITHER_IS_BETTER = ("epoch", "learning_rate", "images_per_s")


def read_log(path: Path) -> list[dict[str, str]]:
    """Returns the rows of an `EpochLog`, [] if the file does not exist."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text: str | None) -> float:
    """Returns the number in a field of a log, NaN if there is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def write_summary(folder: str | Path, finished: bool = True) -> Path:
    """Writes `summary.html` to a run folder, atomically.

    Args:
        folder: Run folder, see `training.run`.
        finished: Whether the run is finished. If not, a browser reloads the page regularly.

    Returns:
        The path of the file.

    Raises:
        UserError: If the folder contains no run, or its record is damaged.
    """
    folder = Path(folder).expanduser()
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        preset = record.pop("preset")
        title = f"{preset['name']}, {preset['image_hw'][0]}x{preset['image_hw'][1]}"
    except OSError as error:
        raise UserError(f"{str(folder)!r} contains no training run: {RECORD!r}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{str(folder / RECORD)!r} is damaged ({type(error).__name__}: {error}).") from None
    columns = _columns(read_log(folder / LOG))
    epochs = columns.pop("epoch", [])
    sections = [f"<h1>{escape(title)}</h1>", f'<p class="note">{escape(_progress(epochs, record, finished))}</p>']
    if epochs:
        sections += ["<h2>Figures</h2>", _figures(epochs, columns), "<h2>Curves</h2>", _curves(epochs, columns)]
    if (folder / SHEET).exists():
        sections += ["<h2>Predictions</h2>", f'<p class="note">{SHEET_NOTE}</p>']
        sections.append(pages.jpeg_picture((folder / SHEET).read_bytes(), "Predictions"))
    sections += ["<h2>Settings</h2>", pages.table(dict(_flat({**record, "model": preset})))]
    with writing(folder / PAGE) as file:
        file.write(pages.page(f"kpzoo: {title}", sections, None if finished else RELOAD_S))
    return folder / PAGE


def _columns(rows: list[dict[str, str]]) -> dict[str, list[float]]:
    """Returns the columns of the log, NaN for missing values. Truncated or edited rows without an epoch are skipped."""

    rows = [row for row in rows if math.isfinite(number(row.get("epoch")))]
    names = dict.fromkeys(name for row in rows for name in row if name)
    return {name: [number(row.get(name)) for row in rows] for name in names}


def _progress(epochs: list[float], record: Mapping, finished: bool) -> str:
    state = "" if finished else " Training is in progress."
    if not epochs:
        return f"No epoch is finished yet.{state}"
    steps = int(epochs[-1]) * record.get("steps_per_epoch", 0)
    return f"{int(epochs[-1])} epochs, {steps} steps of {record.get('batch_size')} crops.{state}"


def _figures(epochs: list[float], columns: Mapping[str, list[float]]) -> str:
    rows = []
    for name, values in columns.items():
        known = [(value, int(epoch)) for value, epoch in zip(values, epochs, strict=True) if math.isfinite(value)]
        if not known:
            continue
        lower = name.startswith(_LOWER_IS_BETTER)
        best, at = min(known, key=lambda pair: (pair[0] if lower else -pair[0], pair[1]))
        shown = name not in _NEITHER_IS_BETTER and best != -1
        rows.append((name, _number(known[-1][0]), _number(best) if shown else "", str(at) if shown else ""))
    return pages.grid(("", "last", "best", "in epoch"), rows)


def _number(value: float) -> str:
    return "n/a" if value == -1 else f"{value:.4g}"  # COCO's metrics are -1 if there is nothing to evaluate


def _curves(epochs: list[float], columns: Mapping[str, list[float]]) -> str:
    def chosen(*starts: str) -> dict[str, list[float]]:
        return {name: values for name, values in columns.items() if name.startswith(starts)}

    groups = {
        "loss and its terms": chosen("loss"),
        "PCK": {**chosen("pck"), **chosen("val_PCK@")},
        "AP on validation data": {name: columns[name] for name in columns if name == "val_AP" or "val_AP_" in name},
        "learning rate": chosen("learning_rate"),
        "images per second": chosen("images_per_s"),
    }
    out = []
    for label, group in groups.items():
        group = {name: [v if v != -1 else math.nan for v in values] for name, values in group.items()}
        group = {name: values for name, values in group.items() if any(map(math.isfinite, values))}
        known = [value for values in group.values() for value in values if math.isfinite(value)]
        if known:
            x_axis = charts.axis_for([0.0, *epochs])
            curves = {name.removeprefix("val_"): (epochs, values) for name, values in group.items()}
            out.append(charts.lines(curves, "epoch", label, x_axis, charts.axis_for(known)))
    return f'<div class="side">{"".join(out)}</div>'


def _flat(values: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields the names and values of nested settings. Keras objects give their class and configuration."""
    if "class_name" in values and "config" in values:
        yield prefix.strip(), values["class_name"]
        values = values["config"]
    for name, value in values.items():
        if name == "skeleton":
            yield f"{prefix}{name}", value["name"] if isinstance(value, Mapping) else value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name.replace('_', ' ')} ")
        elif value is not None:
            yield f"{prefix}{name.replace('_', ' ')}", value if isinstance(value, str) else json.dumps(value)
