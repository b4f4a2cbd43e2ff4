"""HTML pages in one file, without external files: frame, tables and images."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

import cv2
import numpy as np

_STYLE = """
body { font: 15px/1.5 sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 0.5em 0; }
td, th { padding: 0.15em 0.9em 0.15em 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; } .note { color: #555; max-width: 48em; }
.side { display: flex; flex-wrap: wrap; gap: 2em; align-items: flex-start; } img, svg { max-width: 100%; height: auto; }
"""


def page(title: str, sections: Sequence[str], reload_s: int | None = None) -> str:
    """Returns the text of an HTML file.

    Args:
        title: Title of the page.
        sections: HTML of the sections.
        reload_s: Seconds after which a browser reloads the page; None for never.
    """
    reload = f'<meta http-equiv="refresh" content="{reload_s}">' if reload_s else ""
    head = f'<meta charset="utf-8">{reload}<title>{escape(title)}</title><style>{_STYLE}</style>'
    body = "".join(sections)
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def table(values: Mapping[str, object], kind: str = "") -> str:
    """Returns a table of names and values. Floats have four digits, -1 is "n/a". `kind` is the class of the cells."""

    def cell(value) -> str:
        if not isinstance(value, float):
            return escape(str(value))
        return "n/a" if value == -1 else f"{value:.4f}"

    rows = "".join(f'<tr><th>{escape(n)}</th><td class="{kind}">{cell(v)}</td></tr>' for n, v in values.items())
    return f"<table>{rows}</table>"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of texts: names in the first column, numbers in the others."""
    cells = "".join(f'<th class="number">{escape(text)}</th>' for text in head[1:])
    out = f"<tr><th>{escape(head[0])}</th>{cells}</tr>"
    for name, *texts in rows:
        cells = "".join(f'<td class="number">{escape(text)}</td>' for text in texts)
        out += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    return f"<table>{out}</table>"


def picture(image_rgb: np.ndarray, text: str) -> str:
    """Returns an embedded (H, W, 3) uint8 image with the alternative text `text`."""
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(np.asarray(image_rgb), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return jpeg_picture(jpeg[1].tobytes(), text)


def jpeg_picture(jpeg: bytes, text: str) -> str:
    """Returns an embedded JPEG image with the alternative text `text`."""
    return f'<img alt="{escape(text)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
