"""Published weights: a table of files, which are downloaded once and verified before they are read.

Small files are part of the package. Others are cached in `$KPZOO_HOME`, by default `~/.cache/kpzoo`. With
`KPZOO_OFFLINE=1` nothing is downloaded.
"""

import hashlib
import os
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kpzoo import files
from kpzoo.errors import UserError, unknown
from kpzoo.progress import Progress

CHUNK = 1 << 20  # bytes
SHIPPED = "shipped"  # folder in the package
TIMEOUT = 30  # seconds without data until a download fails


@dataclass(frozen=True)
class Weights:
    """A published weights file and how it was trained.

    Args:
        model: Name of the model.
        url: URL of the file, or its name if it is part of the package; `.weights.h5` or `.safetensors`.
        sha256: SHA-256 digest of the file, 64 hexadecimal digits.
        image_hw: (height, width) of crops in training.
        skeleton: Name of the skeleton; None for a person detector.
        options: Options of the model.
        license: Terms of use.
        origin: "trained here", or the file that it was converted from.
        recipe: The recipe of the training: a file, or a file and the name of a run, "recipes/hrnet.py NAME".
        metrics: File in the repository with the evaluation results.
    """

    model: str
    url: str
    sha256: str
    image_hw: tuple[int, int]
    skeleton: str | None
    options: Mapping
    license: str
    origin: str
    recipe: str
    metrics: str

    def __str__(self) -> str:
        size = "{}x{}".format(*self.image_hw)
        finds = self.skeleton or "person boxes"
        return f"{size}, {finds}, {self.origin} by {self.recipe}, figures in {self.metrics}, {self.license}"

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def is_shipped(self) -> bool:
        """Whether the file is part of the package."""
        return "/" not in self.url


LSPET = "research use: photos and labels of Leeds Sports Pose Extended, please cite Johnson and Everingham, CVPR 2011"
PEOPLE = (
    "research use: trained on COCO 2017 (annotations CC BY 4.0, photos under Flickr's terms), Stanford 40 Actions, "
    "PASCAL VOC 2012, Flickr8k, HumanV2 and sports photos, with boxes partly by NanoDet-g (Apache-2.0); started from "
    "EfficientNet-Lite0's ImageNet weights (Apache-2.0)"
)

# By tag. Tags are never reused.
ROWS: dict[str, Weights] = {
    "cpn_nano.lspet_128x128_v1": Weights(
        model="cpn_nano",
        url="cpn_nano_lspet_128x128_v1.safetensors",
        sha256="72855a18d92ea866cc66958d51299254b0fdbb6c9a97fc34c0c4f43ce47bb196",  # cpn_nano
        image_hw=(128, 128),
        skeleton="crowdpose14",
        options={},
        license=LSPET,
        origin="trained here",
        recipe="recipes/cpn_nano_lspet_128x128.py",
        metrics="docs/results/cpn_nano_lspet_128x128.json",
    ),
    "mipnet_nano.crowds_128x96_v1": Weights(
        model="mipnet_nano",
        url="mipnet_nano_crowds_128x96_v1.safetensors",
        sha256="ffca120fde37a6cba31aecc4e7f99c43ca0f46c92d94e0578925fd954e6b3166",  # mipnet_nano
        image_hw=(128, 96),
        skeleton="crowdpose14",
        options={},
        license=LSPET,
        origin="trained here",
        recipe="recipes/crowd_study.py",
        metrics="docs/results/mipnet_nano_crowds_128x96.json",
    ),
    "person_fpn_lite0.people_416x416_v1": Weights(
        model="person_fpn_lite0",
        url="person_fpn_lite0_people_416x416_v1.safetensors",
        sha256="31ff2488c473d0fa3207690649157dbdd2aea3d0ad34ea962a89a233da7fe4f1",  # person_fpn_lite0
        image_hw=(416, 416),
        skeleton=None,
        options={},
        license=PEOPLE,
        origin="trained here",
        recipe="recipes/person_fpn.py person_fpn_lite0",
        metrics="docs/results/person_fpn_lite0_people_416x416.json",
    ),
}


def tags_of(model: str) -> tuple[str, ...]:
    """Returns the tags of the published weights of a model."""
    return tuple(sorted(tag for tag, row in ROWS.items() if row.model == model))


def home() -> Path:
    """Returns the folder of downloaded files."""
    return Path(os.environ.get("KPZOO_HOME") or Path.home() / ".cache" / "kpzoo")


def fetch(tag: str) -> Path:
    """Returns the path of a published weights file, after downloading it if necessary and verifying its digest.

    Args:
        tag: Tag of the weights, a key of `ROWS`.

    Raises:
        UserError: Unknown tag, failed download, or a file with a different digest.
    """
    if tag not in ROWS:
        raise unknown("weights tag", tag, ROWS)
    row = ROWS[tag]
    if row.is_shipped:
        return _shipped(tag, row)
    path = home() / row.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        files.hold(lock)  # only one process downloads
        if path.exists() and not _is_right(path, row):
            path.unlink()
            print(f"Removed {path}, which is not the file of {tag!r} (SHA-256 differs).", file=sys.stderr)
        if not path.exists():
            _download(tag, row, path)
    return path


def _shipped(tag: str, row: Weights) -> Path:
    path = Path(str(resources.files("kpzoo"))) / SHIPPED / row.file_name
    if not path.exists() or not _is_right(path, row):
        raise UserError(f"The weights {tag!r} in the package are damaged or missing: {path}. Reinstall kpzoo.")
    return path


def _is_right(path: Path, row: Weights) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == row.sha256


def _download(tag: str, row: Weights, path: Path) -> None:
    advice = f"Or put the file with SHA-256 {row.sha256} at {path}."
    if os.environ.get("KPZOO_OFFLINE", "") not in ("", "0"):
        raise UserError(f"The weights {tag!r} are not in {str(home())!r}, and KPZOO_OFFLINE is set. {advice}")
    with files.written_whole(path) as part:
        try:
            with urllib.request.urlopen(row.url, timeout=TIMEOUT) as answer, part.open("wb") as file:
                _copy(answer, file, f"downloaded {row.file_name}:")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # `urllib.error.URLError` is one
            reason = getattr(error, "reason", None) or error
            raise UserError(f"The weights {tag!r} cannot be downloaded from {row.url}: {reason}. {advice}") from None
        if not _is_right(part, row):
            given = f"{row.url} returned {part.stat().st_size:,} bytes"
            raise UserError(f"{given}, which are not the weights {tag!r} (SHA-256 differs). {advice}")


def _copy(answer, file, label: str) -> None:
    with Progress(int(answer.headers.get("Content-Length") or 0) / 1e6, "MB", label) as progress:
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            progress.step(count=len(chunk) / 1e6)
