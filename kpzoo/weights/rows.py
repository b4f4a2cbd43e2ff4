"""Kinds of published files: pose models, ImageNet trunks, person detectors. Each file is a row of a table."""

from collections.abc import Mapping
from dataclasses import dataclass

from kpzoo.heatmaps.confidence import Confidence


class Published:
    """Properties that all rows of published files share.

    A row has `url`, `sha256`, `md5`, `license` and `origin`. `sha256` is the full digest of the file, or its first
    digits, or "" where the authors state none; `md5` likewise.
    """

    url: str
    sha256: str
    md5: str
    license: str
    origin: str

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def is_shipped(self) -> bool:
        """Whether the file is part of the package."""
        return "/" not in self.url

    @property
    def digest(self) -> str:
        """What the authors state of the file's digest, as text."""
        stated = {"SHA-256": self.sha256, "MD5": self.md5}
        texts = [f"{kind} {text}{'…' if len(text) < 32 else ''}" for kind, text in stated.items() if text]
        return " and ".join(texts) or "no digest"


@dataclass(frozen=True)
class Weights(Published):
    """A published weights file of one model, and the evidence of its quality.

    Args:
        model: Name of the model.
        url: Address of the file, or its name if it is part of the package.
        sha256: Digest of the file: 64 hexadecimal digits, or the first of them.
        image_hw: (height, width) of crops in training.
        skeleton: Name of the skeleton; None for a person detector.
        options: Options of the builder.
        license: Terms of use of the file.
        origin: "trained here", or the project that published the file.
        recipe: The recipe that trained it: a page, or a page and the name of a run, "recipes/hrnet.py NAME". For files
            of other projects, the name of their configuration.
        metrics: The committed file that proves its metrics; "" for files of other projects.
        normalization: Pixel normalization in training; "" for the default of the model.
        codec: The codec of its heatmaps; "" for the default of the model.
        stated: Metrics that the authors state, by name. They were not measured by kpzoo.
        metric: What `stated` is and its range.
        boxes: Person boxes of `stated`.
        md5: As `sha256`.
        confidence: Numbers for calibrated scores and covariances, fitted with the flip test by `kpzoo evaluate
            --fit-confidence`; None if they were not fitted.
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
    normalization: str = ""
    codec: str = ""
    stated: Mapping[str, float] | None = None
    metric: str = ""
    boxes: str = ""
    md5: str = ""
    confidence: Confidence | None = None

    def __str__(self) -> str:
        start = f"{'{}x{}'.format(*self.image_hw)}, {self.skeleton or 'person boxes'}, {self.origin}"
        if self.stated is None:
            return f"{start} by {self.recipe}, figures in {self.metrics}, {self.license}"
        return f"{start}, authors' figures {self.figures}: {self.metric}; {self.boxes}. {self.license}"

    @property
    def figures(self) -> str:
        """The metrics that the authors state, as text."""
        return ", ".join(f"{name} {value:g}" for name, value in (self.stated or {}).items())


@dataclass(frozen=True)
class Trunk(Published):
    """A published classification network, whose trunk is a start for training.

    Args:
        trunk: Name of the network, such as "resnet50".
        options: Options that a model must have, by their resolved values, for its trunk to be this one.
        url: As in `Weights`.
        sha256: As in `Weights`.
        source: Key of `weights.SOURCES`, the naming of its tensors.
        license: Terms of use of the file.
        origin: The project that published the file, and the data it was trained on.
        normalization: Pixel normalization in training.
        md5: As `sha256`.
    """

    trunk: str
    options: Mapping
    url: str
    sha256: str
    source: str
    license: str
    origin: str
    normalization: str
    md5: str = ""

    def __str__(self) -> str:
        return f"trunk {self.trunk} for training, {self.origin}, {self.license}"


@dataclass(frozen=True)
class DetectorFile(Published):
    """A published person detector in ONNX format, in a zip file.

    Args:
        detector: Name of the detector, a value of `--detector`.
        member: Name of the ONNX file in the zip file.
        image_hw: (height, width) of its input in pixels.
        layout: Key of `onnx_layouts.LAYOUTS`, by which input and outputs are read; None to recognize them.
        url: As in `Weights`.
        sha256: As in `Weights`.
        license: Terms of use of the file.
        origin: The project that published the file, and the data it was trained on.
        md5: As `sha256`.
    """

    detector: str
    member: str
    image_hw: tuple[int, int]
    url: str
    sha256: str
    license: str
    origin: str
    layout: str | None = None
    md5: str = ""

    def __str__(self) -> str:
        return f"{'{}x{}'.format(*self.image_hw)}, person boxes, {self.origin}, {self.license}"
