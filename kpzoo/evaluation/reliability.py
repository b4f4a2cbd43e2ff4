"""How reliable the confidence of keypoints is: calibration of scores, and coverage of ellipses."""

from collections.abc import Mapping

import numpy as np

from kpzoo.data.coco import Annotations
from kpzoo.heatmaps.confidence import HIT_OKS
from kpzoo.html import charts, pages
from kpzoo.nms import similarity

NUM_BINS = 10
# Shares of a normal distribution, and the squared radius, in standard deviations, of the ellipse that holds it.
RADIUS2 = {share: -2 * np.log(1 - share) for share in (0.5, 0.9)}


def hits(annotations: Annotations, person_index: np.ndarray, keypoints_xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (P, K) masks of the labelled keypoints, and of those within the distance of OKS 0.5.

    Args:
        annotations: The annotated persons.
        person_index: (P,) indices of the persons that the poses are of.
        keypoints_xy: (P, K, 2) predicted keypoints in image pixels.
    """
    persons = annotations.persons
    offsets = keypoints_xy - persons.keypoints_image_xy[person_index]
    agreement = similarity(
        np.square(offsets).sum(axis=-1), persons.area[person_index, None], np.array(annotations.skeleton.sigmas)
    )
    return persons.visibility[person_index] > 0, agreement >= HIT_OKS


def squared_radii(
    annotations: Annotations, person_index: np.ndarray, keypoints_xy: np.ndarray, covariance_xy: np.ndarray
) -> np.ndarray:
    """Returns the (P, K) squared distances of the annotated keypoints in standard deviations of the predicted ones."""
    offsets = keypoints_xy - annotations.persons.keypoints_image_xy[person_index]
    return (offsets * np.linalg.solve(covariance_xy, offsets[..., None])[..., 0]).sum(axis=-1)


def reliability(
    annotations: Annotations,
    person_index: np.ndarray,
    keypoints_xy: np.ndarray,
    keypoint_scores: np.ndarray,
    covariance_xy: np.ndarray | None = None,
) -> dict:
    """Returns how reliable the scores and covariances of keypoints are, over the labelled keypoints.

    Args:
        annotations: The annotated persons.
        person_index: (P,) indices of the persons whose boxes the poses were predicted in.
        keypoints_xy: (P, K, 2) predicted keypoints in image pixels.
        keypoint_scores: (P, K).
        covariance_xy: (P, K, 2, 2) in image pixels², if they are known.

    Returns:
        `num_keypoints`; `ECE`, the expected calibration error: the mean over keypoints of the difference between the
        mean score and the share of hits in the bin of the score; `AUC`, the probability that a hit has a higher score
        than a miss; `bins`, for each of ten equal bins of the score its `count`, `mean_score` and `share` of hits; and,
        if there are covariances, `coverage_50` and `coverage_90`, the shares of keypoints inside the ellipses. A
        hit is a keypoint within the distance of OKS 0.5. Empty without labelled keypoints.
    """
    labelled, hit = hits(annotations, person_index, keypoints_xy)
    scores, hit = keypoint_scores[labelled], hit[labelled]
    if not len(scores):
        return {}
    found = {"num_keypoints": len(scores), **calibration(scores, hit)}
    if covariance_xy is not None:
        radii = squared_radii(annotations, person_index, keypoints_xy, covariance_xy)[labelled]
        found |= {_coverage(share): float((radii <= r2).mean()) for share, r2 in RADIUS2.items()}
    return found


def calibration(scores: np.ndarray, hit: np.ndarray) -> dict:
    """Returns the `ECE`, `AUC` and `bins` of `reliability` for (n,) scores and outcomes."""
    place = np.clip((scores * NUM_BINS).astype(int), 0, NUM_BINS - 1)
    counts = np.bincount(place, minlength=NUM_BINS)
    sums = (np.bincount(place, values, NUM_BINS) for values in (scores, hit))
    means, shares = (total / np.maximum(counts, 1) for total in sums)
    bins = [
        {"count": int(count), "mean_score": float(mean), "share": float(share)}
        for count, mean, share in zip(counts, means, shares, strict=True)
    ]
    ece = float(np.abs(means - shares) @ counts / len(scores))
    return {"ECE": ece, "AUC": _area_under_curve(scores, hit), "bins": bins}


def _area_under_curve(scores: np.ndarray, hit: np.ndarray) -> float | None:
    """Returns the area under the ROC curve, in which equal scores count half; None if all outcomes are the same."""
    if hit.all() or not hit.any():
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1
    num_hits = int(hit.sum())
    return float((ranks[hit].sum() - num_hits * (num_hits + 1) / 2) / (num_hits * (len(hit) - num_hits)))


def section(found: Mapping) -> str:
    """Returns the section of the HTML report: the reliability diagram, its numbers, and the coverage of ellipses."""
    bins = [row for row in found["bins"] if row["count"]]
    curves = {
        "calibrated": ([0.0, 1.0], [0.0, 1.0]),
        "this model": ([row["mean_score"] for row in bins], [row["share"] for row in bins]),
    }
    chart = charts.lines(curves, "mean score", "share within the distance of OKS 0.5")
    rows = [
        (f"{number / NUM_BINS:.1f} to {(number + 1) / NUM_BINS:.1f}", str(row["count"]), *_numbers(row))
        for number, row in enumerate(found["bins"])
    ]
    grid = pages.grid(("score", "keypoints", "mean score", "share"), rows)
    values = {"labelled keypoints": f"{found['num_keypoints']}", "expected calibration error": f"{found['ECE']:.4f}"}
    values |= {} if found["AUC"] is None else {"AUC of the scores": f"{found['AUC']:.4f}"}
    inside = {f"inside the {share:.0%} ellipses": _coverage(share) for share in RADIUS2}
    values |= {text: f"{found[name]:.4f}" for text, name in inside.items() if name in found}
    note = (
        "Labelled keypoints of the poses in annotated boxes. Share: those within the distance of OKS 0.5 of the "
        "annotation. Scores are calibrated if it equals the mean score; scores of models without a fitted confidence "
        "are values of the heatmaps."
    )
    return f'<p class="note">{note}</p><div class="side">{chart}{grid}{pages.table(values, "number")}</div>'


def _coverage(share: float) -> str:
    """Returns the name of the share of keypoints inside the ellipses of a share."""
    return f"coverage_{100 * share:.0f}"


def _numbers(row: Mapping) -> tuple[str, str]:
    return (f"{row['mean_score']:.3f}", f"{row['share']:.3f}") if row["count"] else ("", "")
