"""Measures AP and AR of a person detector's boxes, with several methods of box suppression.

    python recipes/person_fpn_results.py --data data --state runs/lite0/state.json    # minutes on a CPU
    python tests/test_shipped.py --write                                              # writes the page

The data folder contains coco_people/ and coco_real/, each with images/val/ and annotations/. The network runs once per
image. All methods are then applied to the same candidates, as in `kpzoo detect --box-nms`: hard NMS at IoU thresholds
0.3 … 0.6, and linear and Gaussian soft-NMS, as in Table 1 of CPN (arXiv:1711.07319).
"""

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import kpzoo
from kpzoo.evaluation.metrics import Metrics
from kpzoo.files import write_json
from kpzoo.inference import detectors
from kpzoo.inference.boxes import Detector
from kpzoo.weights import published

SETS = {
    "coco_people val": ("coco_people", "coco_people_val.json"),
    "coco_real val": ("coco_real", "person_keypoints_val.json"),
}
TABLE_SET = "coco_people val"
MIN_SCORE = 0.01  # AP includes boxes with low scores
TABLE = [{"suppression": "hard", "max_iou": round(0.3 + 0.05 * step, 2)} for step in range(7)]
TABLE += [{"suppression": "linear", "max_iou": iou} for iou in (0.3, 0.5)]
TABLE += [{"suppression": "gaussian", "sigma": sigma} for sigma in (0.1, 0.3, 0.5)]


@dataclass(frozen=True)
class Given(Detector):
    """Applies suppression to stored candidates."""

    candidates: tuple = ()

    def find(self, image_rgb, image_id):
        return self.candidates[image_id][:2]


def score(paths: list[Path], candidates: tuple, annotations: Path, **settings) -> Metrics:
    """Returns the metrics of the candidates after suppression."""
    detector = Given(candidates, min_score=MIN_SCORE, **settings)
    rows = []
    for index, path in enumerate(paths):
        image = np.zeros((*candidates[index][2], 3), np.uint8)
        for box, value in zip(*(part[0] for part in detector.detect([image], [index])), strict=True):
            rows.append({"file_name": path.name, "category_id": 1, "bbox": box.tolist(), "score": float(value)})
    with tempfile.TemporaryDirectory() as folder:
        return kpzoo.score_boxes(annotations, write_json(Path(folder) / "boxes.json", rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True, help="state.json of the training run")
    args = parser.parse_args()
    detector = detectors.get()
    row = published.ROWS[detector.weights]
    wide = replace(detector, min_score=MIN_SCORE, suppression=None, max_boxes=10_000)
    sets, table = {}, []
    for name, (folder, file) in SETS.items():
        annotations = args.data / folder / "annotations" / file
        paths = sorted(args.data / folder / "images/val" / one["file_name"] for one in json.loads(
            annotations.read_text("utf-8"))["images"])  # fmt: skip
        candidates = []
        for path in paths:
            image = kpzoo.images.read_image(path)
            [boxes], [scores] = wide.detect([image])
            candidates.append((boxes, scores, image.shape[:2]))
        own = {"suppression": detector.suppression, "max_iou": detector.max_iou}
        found = score(paths, tuple(candidates), annotations, **own)
        about = {key: found.circumstances[key] for key in ("protocol", "images", "persons", "crowds_ignored")}
        sets[name] = {"metrics": found.values, "F1_min_score": found.details["F1_min_score"], **own, **about}
        print(name, json.dumps(sets[name]), flush=True)
        if name == TABLE_SET:
            for settings in TABLE:
                values = score(paths, tuple(candidates), annotations, **settings).values
                table.append({**settings, **{key: values[key] for key in ("AP", "AP50", "AP75", "AR")}})
                print(json.dumps(table[-1]), flush=True)
    state = json.loads(args.state.read_text("utf-8"))
    run = {"model": row.model, "weights": detector.weights, "step": state["step"], "decay_from": state["decay_from"]}
    run |= {"min_score": MIN_SCORE, "sets": sets}
    print(write_json(Path(row.metrics), {**run, "nms_set": TABLE_SET, "nms": table}, indent=1))


if __name__ == "__main__":
    main()
