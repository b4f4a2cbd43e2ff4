"""Confidence of keypoints: numbers that are fitted for each trained model, without TensorFlow."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

HIT_OKS = 0.5  # a keypoint counts as found if its own similarity in the OKS is at least this


@dataclass(frozen=True)
class Confidence:
    """What turns the heatmaps of a trained model into covariances and into calibrated scores.

    `kpzoo.evaluation.fit_confidence` fits the numbers on annotated people that the model was not trained on. The
    covariance of a keypoint is `scale` times its `spread` in crop pixels, so that the 90 % ellipses cover 90 % of the
    annotated keypoints. Its score is the predicted share of such keypoints that lie within the distance of OKS 0.5,
    d² / (2 · area · (2σ)²) ≤ ln 2:

        1 / (1 + exp(-(w0 + w1 · log(peak) + w2 · log(σ² · H · W / variance))))

    with the value `peak` of the heatmap at the keypoint, 1 for a perfect prediction, COCO's σ of the keypoint, the area
    H · W of the crop, and the mean variance of the spread, half of its trace. All lengths are in crop pixels.

    Args:
        scale: Factor of the covariances, above 0.
        weights: (w0, w1, w2), or None for scores that are the peaks.
    """

    scale: float
    weights: tuple[float, float, float] | None

    def __post_init__(self):
        weights = None if self.weights is None else tuple(map(float, self.weights))
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "weights", weights)
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"the scale of a confidence must be above 0. Received: {self.scale}")
        if weights is not None and not (len(weights) == 3 and all(map(math.isfinite, weights))):
            raise ValueError(f"the weights of a confidence must be three finite numbers. Received: {weights}")

    def to_config(self) -> dict:
        """Returns the numbers as JSON values, the argument of `from_config`."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_config(cls, config: Mapping) -> "Confidence":
        return cls(**config)


UNFITTED = Confidence(1.0, None)  # the spread as it is, and scores that are the peaks
