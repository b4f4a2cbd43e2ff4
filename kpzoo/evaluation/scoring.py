"""Evaluation of existing results, such as a results file, without a model and without TensorFlow."""

from dataclasses import replace
from pathlib import Path

from kpzoo.data.coco import Annotations, read_annotations
from kpzoo.data.results import Results, read_results
from kpzoo.evaluation.metrics import Metrics, average_precision


def score(annotations: str | Path | Annotations, results: str | Path | Results, *, protocol: str = "coco") -> Metrics:
    """Returns AP and AR of predicted poses.

    Args:
        annotations: A COCO keypoint JSON file, or what `kpzoo.data.load(...).annotations` holds.
        results: A COCO keypoint results file, or a `kpzoo.data.results.Results`.
        protocol: "coco" or "crowdpose", see `kpzoo.metrics.average_precision`.

    Raises:
        UserError: If a file cannot be read, or the results belong to other images or another skeleton.

    Example:
        metrics = kpzoo.score("person_keypoints_val2017.json", "results.json")
        print(metrics.values["AP"])
    """
    if not isinstance(annotations, Annotations):
        annotations = read_annotations(annotations)
    if not isinstance(results, Results):
        results = read_results(results, annotations)
    return replace(average_precision(annotations, results, protocol), results=results)
