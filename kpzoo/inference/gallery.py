"""A static HTML page of the results of `kpzoo predict`: thumbnails and scores, filtered by score, without a server."""

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np

from kpzoo import images
from kpzoo.data.json_file import read_json
from kpzoo.errors import UserError
from kpzoo.files import system_name, utf8_path, writing
from kpzoo.html import pages
from kpzoo.inference import outputs

PAGE = "gallery.html"
MAX_FRAMES = 300  # thumbnails of a video

_SIDE = 320  # pixels, the longer side of a thumbnail
_STYLE = """<style>
.controls { position: sticky; top: 0; background: #fff; padding: 0.5em 0; border-bottom: 1px solid #ccc; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 1em; margin-top: 1em; }
.tiles figure { margin: 0; } .tiles figcaption { font-size: 0.85em; overflow-wrap: anywhere; }
body { max-width: 1400px; }
</style>"""
_CONTROLS = """<p class="controls"><label>best score from <input type="range" id="low" min="0" max="1" step="0.01"
value="0"></label> <label>to <input type="range" id="high" min="0" max="1" step="0.01" value="1"></label>
<label><input type="checkbox" id="none" checked> without poses</label> <output id="count"></output></p>"""
_SCRIPT = """<script>
const low = document.getElementById("low"), high = document.getElementById("high");
const none = document.getElementById("none"), count = document.getElementById("count");
const tiles = [...document.querySelectorAll(".tiles figure")];
function filter() {
  let shown = 0;
  for (const tile of tiles) {
    const score = parseFloat(tile.dataset.best);
    const wanted = score < 0 ? none.checked : score >= +low.value && score <= +high.value;
    tile.hidden = !wanted;
    shown += wanted;
  }
  count.value = `${shown} of ${tiles.length}, best score ${(+low.value).toFixed(2)} to ${(+high.value).toFixed(2)}`;
}
for (const one of [low, high, none]) one.addEventListener("input", filter);
filter();
</script>"""


def write_gallery(folder: str | Path) -> Path:
    """Writes `gallery.html` in an output folder of `kpzoo predict`, with a thumbnail for each drawing.

    The page has the names and the scores of the poses, and a filter by the best score of an image. It opens in a
    browser without a server and without a network. Thumbnails are part of the page; a click opens the drawing. A video
    is shown by at most 300 frames of its drawing, evenly spaced.

    Args:
        folder: The output folder, with drawings.

    Returns:
        The path of the page.

    Raises:
        UserError: If the folder has no results or no drawings, or the page cannot be written.
    """
    folder = Path(folder).expanduser()
    if not (folder / outputs.RESULTS).is_file():
        raise UserError(f"There are no results of `kpzoo predict` in {folder}.")
    scores: dict[str, list[float]] = {}
    for row in read_json(folder / outputs.RESULTS):
        scores.setdefault(row["file_name"], []).append(row["score"])
    drawings = [path for path in sorted((folder / outputs.PICTURES).rglob("*")) if path.is_file()]
    videos = [path for path in sorted(folder.glob("*.mp4")) if not path.stem.endswith("_nms")]
    if not drawings and not videos:
        raise UserError(f"There are no drawings in {folder}.", "Predict without `pictures=False`.")
    tiles = _of_files(folder, drawings, scores) if drawings else _of_video(videos[0], scores)
    with writing(folder / PAGE) as file:
        title = f"Poses in {folder.resolve().name}"
        head, _, tail = pages.page(title, [_STYLE, f"<h1>{escape(title)}</h1>", _CONTROLS, _CUT, _SCRIPT]).partition(
            _CUT
        )
        file.write(f'{head}<div class="tiles">')
        for tile in tiles:
            file.write(tile)
        file.write(f"</div>{tail}")
    return folder / PAGE


_CUT = "<!-- tiles -->"


def _of_files(folder: Path, drawings: list[Path], scores: dict[str, list[float]]) -> Iterator[str]:
    """Yields the tiles of drawings, by the names of their images."""
    by_file = {system_name(name): found for name, found in scores.items()}
    for path in drawings:
        name = path.relative_to(folder / outputs.PICTURES).as_posix()
        found = by_file.get(name, by_file.get(name.removesuffix(".png"), []))
        link = quote(path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape"))
        yield _tile(name, found, images.read_image(path), link)


def _of_video(path: Path, scores: dict[str, list[float]]) -> Iterator[str]:
    """Yields tiles of frames of a drawn video, numbered as in the drawing."""
    capture = cv2.VideoCapture(utf8_path(path))
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        step, number = max(1, math.ceil(count / MAX_FRAMES)), 0
        while capture.grab():
            if number % step == 0 and (read := capture.retrieve())[0]:
                image = cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
                yield _tile(f"frame {number}", scores.get(str(number), []), image, quote(path.name))
            number += 1
    finally:
        capture.release()


def _tile(name: str, scores: list[float], image_rgb: np.ndarray, link: str) -> str:
    height, width = image_rgb.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    name = name.encode("utf-8", "backslashreplace").decode()
    picture = pages.picture(cv2.resize(image_rgb, size, interpolation=cv2.INTER_AREA), name)
    listed = ", ".join(f"{score:.2f}" for score in sorted(scores, reverse=True)) or "no pose"
    caption = f"<figcaption>{escape(name)}<br>{listed}</figcaption>"
    return f'<figure data-best="{max(scores, default=-1):.4f}"><a href="{link}">{picture}</a>{caption}</figure>\n'
