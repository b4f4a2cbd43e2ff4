"""HTML report of an evaluation in one file: metrics, curves, errors by keypoint, the worst images."""

from html import escape
from pathlib import Path

import numpy as np

from kpzoo import drawing, images
from kpzoo.data.coco import Annotations
from kpzoo.data.files import PoseData
from kpzoo.data.results import Results
from kpzoo.evaluation import metrics, mistakes, reliability
from kpzoo.files import writing
from kpzoo.html import charts, pages
from kpzoo.nms import iou_matrix

NUM_WORST = 20
_CROWDING = (0.0, 0.05, 0.1, 0.2, 0.4, np.inf)


def write_report(
    path: str | Path,
    annotations: Annotations,
    results: Results,
    found: metrics.Metrics,
    data: PoseData | None = None,
    *,
    protocol: str = "coco",
) -> Path:
    """Writes the report.

    Args:
        path: The .html file.
        annotations: The ground truth.
        results: The poses.
        found: The metrics of the poses.
        data: The data set, whose images are shown; None for a report without images.
        protocol: Protocol of the AP in the charts, the same as in `found`.

    Returns:
        The path.
    """
    wrong = mistakes.find(annotations, results)
    sections = [
        f"<h1>Poses against {escape(Path(annotations.path).name)}</h1>",
        '<div class="side">',
        pages.table(found.values, "number"),
        pages.table({name.replace("_", " "): value for name, value in found.circumstances.items()}),
        "</div>",
        "<h2>Precision and recall, AP and crowding</h2>",
        f'<div class="side">{_precision_recall(found)}',
        f"{_crowding(annotations, results, protocol)}{_kept(found)}</div>",
        "<h2>Errors by keypoint</h2>",
        _mistakes(annotations, results, wrong, protocol),
    ]
    if confidence := found.details.get("confidence"):
        sections += ["<h2>Confidence of keypoints</h2>", reliability.section(confidence)]
    if data is not None:
        sections += ["<h2>Worst images</h2>", _worst(data, results, wrong)]
    path = Path(path).expanduser()
    with writing(path) as file:
        file.write(pages.page(f"kpzoo: {Path(annotations.path).name}", sections))
    return path


def _precision_recall(found: metrics.Metrics) -> str:
    rows = zip(found.details["oks_thresholds"], found.details["precision"], strict=True)
    curves = {f"OKS {threshold:.2f}": (metrics.RECALLS, np.maximum(row, 0)) for threshold, row in rows}
    return charts.lines({name: curves[name] for name in ("OKS 0.50", "OKS 0.75", "OKS 0.90")}, "recall", "precision")


def overlap(annotations: Annotations) -> np.ndarray:
    """Returns the (I,) crowding of the images: the mean over persons of the largest IoU with another person's box."""
    persons = annotations.persons
    values = np.zeros(len(annotations.image_ids))
    for index in np.unique(persons.image_index):
        boxes = persons.boxes_image_xywh[(persons.image_index == index) & ~persons.is_crowd & persons.has_box]
        if len(boxes) > 1:
            ious = iou_matrix(boxes, boxes)
            np.fill_diagonal(ious, 0)
            values[index] = ious.max(axis=1).mean()
    return values


def _crowding(annotations: Annotations, results: Results, protocol: str) -> str:
    crowded = overlap(annotations)
    values, notes = {}, []
    for low, high in zip(_CROWDING[:-1], _CROWDING[1:], strict=True):
        chosen = annotations.image_ids[(crowded >= low) & (crowded < high)]
        if not len(chosen):
            continue
        part = metrics.average_precision(annotations, results, protocol, image_ids=chosen)
        if part.values["AP"] >= 0:
            name = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} and more"
            values[name] = part.values["AP"]
            notes.append(f"{part.circumstances['persons']} persons")
    return charts.bars(values, notes, "overlap of boxes: mean over persons of the largest IoU with another box", "AP")


def _kept(found: metrics.Metrics) -> str:
    """Returns the chart of AP over the share of boxes kept, if `found` has it and some boxes overlap."""
    rows = found.details.get("kept", ())
    if all(row["share"] == 1 for row in rows):
        return ""
    curve = ([row["share"] for row in rows], [max(row["AP"], 0.0) for row in rows])
    chart = charts.lines({found.circumstances["model"]: curve}, "share of the boxes that are kept", "AP")
    ious = ", ".join(f"{row['max_iou']:g}" for row in rows)
    note = f"AP after non-maximum suppression of the boxes at an IoU of {ious}, from right to left."
    return f'<div>{chart}<p class="note" style="max-width: 460px">{note}</p></div>'


def _mistakes(annotations: Annotations, results: Results, wrong: mistakes.Mistakes, protocol: str) -> str:
    counts = wrong.counts()
    rows = dict(zip(wrong.skeleton.keypoints, counts.tolist(), strict=True))
    chart = charts.stacked_bars({**rows, "all": counts.sum(axis=0).tolist()}, mistakes.KINDS)
    now = metrics.average_precision(annotations, results, protocol).values["AP"]
    without = mistakes.ap_without(annotations, results, wrong, protocol)
    gains = {f"without {kind}": f"{value:.4f} ({value - now:+.4f})" for kind, value in without.items()}
    kinds = (
        f"Labelled keypoints of the persons matched to a pose (OKS of at least {mistakes.FOUND}). Good: similarity of "
        f"at least {mistakes.GOOD} with the annotation. Jitter: at least {mistakes.NEAR}. Inversion: at the opposite "
        "keypoint of the person. Swap: at another person. Miss: none of these. Taxonomy of Ronchi &amp; Perona, ICCV "
        f"2017. {len(wrong.person)} persons matched, {len(wrong.not_found)} not matched; {len(wrong.without_person)} "
        "poses without a person, who may not be annotated."
    )
    return (
        f'<p class="note">{kinds}</p><div class="side">{chart}<div><p>AP after correction of one kind of error:</p>'
        f"{pages.table({'uncorrected': f'{now:.4f}', **gains}, 'number')}</div></div>{_joints(wrong)}"
    )


def _joints(wrong: mistakes.Mistakes) -> str:
    """Returns the numbers of the chart as a table."""
    return pages.grid(("joint", "labelled", *mistakes.KINDS), wrong.rows())


def worst_sheet(data: PoseData, results: Results, wrong: mistakes.Mistakes) -> drawing.Picture:
    """Returns the images with the lowest mean OKS over their persons: annotations left, poses right."""
    persons = data.annotations.persons
    oks = np.full(len(persons.image_ids), np.nan)
    oks[wrong.person], oks[wrong.not_found] = wrong.oks, 0.0
    known = np.flatnonzero(np.isfinite(oks))
    image_ids = np.unique(persons.image_ids[known])
    means = np.array([oks[known[persons.image_ids[known] == image_id]].mean() for image_id in image_ids])
    pictures, captions = [], []
    for place in np.argsort(means, kind="stable")[:NUM_WORST]:
        image_id = image_ids[place]
        file = data.image_paths([image_id])[0]
        picture = images.read_image(file, apply_exif=False)
        rows = known[persons.image_ids[known] == image_id]
        truth = drawing.draw_poses(
            picture, persons.keypoints_image_xy[rows], persons.visibility[rows] / 2, data.skeleton
        )
        poses = np.flatnonzero(results.image_ids == image_id)
        drawn = drawing.draw_poses(
            picture,
            results.keypoints_image_xy[poses],
            results.keypoint_scores[poses],
            data.skeleton,
            scores=results.scores[poses],
            min_score=0.0,  # OKS includes all keypoints
        )
        pictures.append(np.concatenate([truth, drawn], axis=1))
        captions.append(f"{Path(file).name}  OKS {means[place]:.2f}")
    aspect = float(np.median([picture.shape[0] / picture.shape[1] for picture in pictures])) if pictures else 0.5
    return drawing.contact_sheet(pictures, 2, captions, cell_hw=(round(520 * aspect), 520))


def _worst(data: PoseData, results: Results, wrong: mistakes.Mistakes) -> str:
    sheet = worst_sheet(data, results, wrong)
    note = f"The {NUM_WORST} images with the lowest mean OKS of the annotated persons. Left: annotations. Right: poses."
    return f'<p class="note">{note}</p>{pages.picture(sheet, "Worst images")}'
