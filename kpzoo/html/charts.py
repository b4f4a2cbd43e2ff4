"""Charts as SVG text, for HTML reports without scripts and external files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#8A8A8A", "#0072B2", "#D55E00")  # Okabe & Ito, and grey

MARKED = 60  # curves with at most this many points show them, with their values as tooltips


@dataclass(frozen=True)
class Axis:
    """Linear or logarithmic axis from the first tick to the last."""

    ticks: tuple[float, ...]
    log: bool = False

    def share(self, value: float) -> float:
        low, high, value = (math.log(x) if self.log else x for x in (self.ticks[0], self.ticks[-1], value))
        return (value - low) / (high - low)


UNIT = Axis((0.0, 0.2, 0.4, 0.6, 0.8, 1.0))


def axis_for(values: Sequence[float]) -> Axis:
    """Returns a linear axis that includes 0, or a logarithmic one if positive values differ more than 20-fold."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low > 0 and high > 20 * low:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high) - 1e-9)
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        ticks = [step * 10.0**power for power in range(first, last) for step in steps] + [10.0**last]
        start = max(index for index, tick in enumerate(ticks) if tick <= low)
        stop = min(index for index, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
        return Axis(tuple(ticks[start : stop + 1]), log=True)
    low, high = min(low, 0.0), max(high, 0.0)
    high = high if high > low else 1.0
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(tuple(index * step for index in range(first, last + 1)))


def stacked_bars(rows: Mapping[str, Sequence[float]], parts: Sequence[str]) -> str:
    """Returns a chart with one bar per row, divided in proportion to its numbers, and a legend of the parts."""
    left, width, height = 130, 560, 20
    body = [_legend(parts, left)]
    for index, (name, numbers) in enumerate(rows.items()):
        y, x, total = 34 + index * (height + 6), float(left), max(sum(numbers), 1e-9)
        body.append(_text(left - 8, y + 14, name, "end"))
        for part, number, colour in zip(parts, numbers, COLOURS, strict=False):
            span = width * number / total
            title = f"<title>{escape(name)}, {escape(part)}: {number:g} of {total:g}</title>"
            body.append(
                f'<rect x="{x:.1f}" y="{y}" width="{span:.1f}" height="{height}" fill="{colour}">{title}</rect>'
            )
            if span > 34:
                body.append(
                    _text(
                        x + span / 2, y + 14, f"{number / total:.0%}", "middle", "#111" if colour[1] != "0" else "#fff"
                    )
                )
            x += span
    return _svg(left + width + 10, 40 + len(rows) * (height + 6), body)


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    x_axis: Axis = UNIT,
    y_axis: Axis = UNIT,
) -> str:
    """Returns a line chart of (xs, ys), by default over the unit square. Values that are not finite are left out."""
    body = [_frame(x_label, y_label, x_axis, y_axis), _legend(list(curves), 60)]
    for (name, (xs, ys)), colour in zip(curves.items(), _cycle(len(curves)), strict=True):
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        places = [(60 + 400 * x_axis.share(x), 330 - 290 * y_axis.share(y)) for x, y in points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        if len(points) <= MARKED:
            for (x, y), (left, top) in zip(points, places, strict=True):
                title = f"<title>{escape(name)}, {escape(x_label)} {x:g}: {y:.4g}</title>"
                body.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{colour}">{title}</circle>')
    return _svg(480, 380, body)


def bars(values: Mapping[str, float], notes: Sequence[str], x_label: str, y_label: str) -> str:
    """Returns a column chart of values in [0, 1], with a note below each name."""
    body, step = [_frame(x_label, y_label, None, UNIT)], 400 / max(len(values), 1)
    for index, ((name, value), note) in enumerate(zip(values.items(), notes, strict=True)):
        x, height = 60 + step * (index + 0.15), 290 * max(value, 0)
        size = f'width="{step * 0.7:.1f}" height="{height:.1f}"'
        body.append(f'<rect x="{x:.1f}" y="{330 - height:.1f}" {size} fill="{COLOURS[5]}"/>')
        body.append(_text(x + step * 0.35, 324 - height, f"{value:.3f}", "middle"))
        body.append(_text(x + step * 0.35, 346, name, "middle"))
        body.append(_text(x + step * 0.35, 360, note, "middle", "#666"))
    return _svg(480, 396, body)


def _cycle(count: int) -> list[str]:
    order = (5, 6, 0, 3, 2, 1, 4)
    return [COLOURS[order[index % len(order)]] for index in range(count)]


def _legend(names: Sequence[str], left: float) -> str:
    out, x, y = [], left, 8
    colours = COLOURS if left > 60 else _cycle(len(names))
    for name, colour in zip(names, colours, strict=False):
        if left == 60 < x and x + 17 + 6.5 * len(name) > 475:  # there is space for a second line
            x, y = left, y + 15
        out.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>' + _text(x + 17, y + 10, name))
        x += 34 + 7 * len(name)
    return "".join(out)


def _frame(x_label: str, y_label: str, x_axis: Axis | None, y_axis: Axis) -> str:
    out = []
    for tick in y_axis.ticks:
        y = 330 - 290 * y_axis.share(tick)
        out.append(f'<line x1="60" x2="460" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(_text(52, y + 4, _tick(tick, y_axis), "end"))
    for tick in x_axis.ticks if x_axis else ():
        x = 60 + 400 * x_axis.share(tick)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="40" y2="330" stroke="#ddd"/>')
        out.append(_text(x, 346, _tick(tick, x_axis), "middle"))
    out.append(_text(260, 368 if x_axis else 384, x_label, "middle", "#444"))
    return "".join(out) + f'<g transform="rotate(-90 12 185)">{_text(12, 189, y_label, "middle", "#444")}</g>'


def _tick(value: float, axis: Axis) -> str:
    if axis is UNIT:
        return f"{value:.1f}"
    return f"{value:.5g}" if not 0 < abs(value) < 0.001 else f"{value:.0e}".replace("e-0", "e-")


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(width: float, height: float, body: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">{"".join(body)}</svg>'
    )


def dots(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns dot plots side by side, each with its own scale: a dot for each number of a row, and a bar at the mean.

    Args:
        panels: Numbers by row, by title of the panel. All panels have the same rows; a row may be empty.
    """
    rows = list(next(iter(panels.values())))
    left, width, height = 20 + 6.6 * max(len(row) for row in rows), 230, 26
    bottom = 40 + height * len(rows)
    body = [_text(left - 10, 58 + height * index, row, "end") for index, row in enumerate(rows)]
    for panel, (title, numbers) in enumerate(panels.items()):
        x0 = left + panel * (width + 40)
        every = [value for row in rows for value in numbers[row]] or [0.0]
        low, high = min(every), max(every)
        room = (high - low) * 0.08 or 0.5
        low, scale = low - room, width / (high - low + 2 * room)
        body.append(_text(x0 + width / 2, 22, title, "middle", "#444"))
        for index in range(5):
            x = x0 + width * index / 4
            body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="36" y2="{bottom}" stroke="#ddd"/>')
            if index % 2 == 0:
                body.append(_text(x, bottom + 16, f"{low + (x - x0) / scale:.1f}", "middle", "#666"))
        for index, row in enumerate(rows):
            y = 54 + height * index
            for value in numbers[row]:
                body.append(
                    f'<circle cx="{x0 + (value - low) * scale:.1f}" cy="{y}" r="4" fill="{COLOURS[5]}" opacity="0.6"/>'
                )
            if numbers[row]:
                x = x0 + (sum(numbers[row]) / len(numbers[row]) - low) * scale
                body.append(f'<rect x="{x - 1:.1f}" y="{y - 9}" width="2" height="18" fill="{COLOURS[6]}"/>')
    return _svg(left + len(panels) * (width + 40), bottom + 26, body)
