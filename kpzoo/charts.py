"""Charts as SVG text: a report needs no drawing library, no script and no network."""

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#8A8A8A", "#0072B2", "#D55E00")  # Okabe & Ito, grey for none


def stacked_bars(rows: Mapping[str, Sequence[float]], parts: Sequence[str]) -> str:
    """Returns one bar of full width a row, in the shares of its numbers, with a legend of the parts above."""
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


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str) -> str:
    """Returns curves over the unit square."""
    body = [_frame(x_label, y_label), _legend(list(curves), 60)]
    for (xs, ys), colour in zip(curves.values(), _cycle(len(curves)), strict=True):
        points = " ".join(f"{60 + 400 * x:.1f},{330 - 290 * y:.1f}" for x, y in zip(xs, ys, strict=True))
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
    return _svg(480, 380, body)


def bars(values: Mapping[str, float], notes: Sequence[str], x_label: str, y_label: str) -> str:
    """Returns a column for each value in 0 … 1, with a note below its name."""
    body, step = [_frame(x_label, y_label, grid_x=False)], 400 / max(len(values), 1)
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
    out, x = [], left
    colours = COLOURS if left > 60 else _cycle(len(names))
    for name, colour in zip(names, colours, strict=False):
        out.append(f'<rect x="{x}" y="8" width="12" height="12" fill="{colour}"/>' + _text(x + 17, 18, name))
        x += 34 + 7 * len(name)
    return "".join(out)


def _frame(x_label: str, y_label: str, grid_x: bool = True) -> str:
    out = []
    for index in range(6):
        share = index / 5
        y, x = 330 - 290 * share, 60 + 400 * share
        out.append(
            f'<line x1="60" x2="460" y1="{y}" y2="{y}" stroke="#ddd"/>' + _text(52, y + 4, f"{share:.1f}", "end")
        )
        if grid_x:
            out.append(f'<line x1="{x}" x2="{x}" y1="40" y2="330" stroke="#ddd"/>')
            out.append(_text(x, 346, f"{share:.1f}", "middle"))
    out.append(_text(260, 368 if grid_x else 384, x_label, "middle", "#444"))
    return "".join(out) + f'<g transform="rotate(-90 16 185)">{_text(16, 189, y_label, "middle", "#444")}</g>'


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(width: float, height: float, body: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">{"".join(body)}</svg>'
    )


def dots(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Returns panels side by side, each with its own scale: a dot for each number of a row, and a bar at their mean.

    Args:
        panels: Title to row to numbers, of which a row may have none; all panels have the same rows.
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
