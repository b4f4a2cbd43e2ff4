"""Writes the page on the results of `ablations.py`: tables next to the papers' values, plots, and a verdict per claim.

`verdict` derives each verdict from the measured values: it compares a difference of means with the noise between seeds.
"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from kpzoo.html.charts import dots


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Args:
        title: Heading of the section.
        rows: Row name to (label, published AP or None, published GFLOPs or None).
        claims: (row, row with the lower published AP, the claim as a sentence without a full stop).
        text: Markdown below the heading: conditions of the comparison.
        metrics: Measured metrics to show, by their keys in the results file.
    """

    title: str
    rows: Mapping[str, tuple[str, float | None, float | None]]
    claims: Sequence[tuple[str, str, str]]
    text: str
    metrics: Sequence[str] = ("AP", "PCK@0.2")


TABLES = {
    "table7": Table(
        "CPN, Table 7: losses of GlobalNet and RefineNet",
        {
            "cpn_refine_l2": ("none, L2", 68.2, None),
            "cpn_l2": ("L2, L2 (CPN\\*)", 68.6, None),
            "cpn_refine_ohkm": ("none, OHKM", 68.5, None),
            "cpn": ("**L2, OHKM** (CPN)", 69.4, None),
            "cpn_ohkm_ohkm": ("OHKM, OHKM", 69.1, None),
        },
        [
            ("cpn", "cpn_l2", "for RefineNet, OHKM is better than L2"),
            ("cpn_l2", "cpn_refine_l2", "supervision of GlobalNet helps if RefineNet is trained with L2"),
            ("cpn", "cpn_refine_ohkm", "supervision of GlobalNet helps if RefineNet is trained with OHKM"),
            ("cpn", "cpn_ohkm_ohkm", "OHKM on RefineNet only is better than OHKM on both"),
        ],
        "Each row names the losses of GlobalNet and RefineNet, in this order. OHKM keeps the 8 keypoints with the "
        "highest loss.",
    ),
    "table4": Table(
        "CPN, Table 4: designs of RefineNet",
        {
            "globalnet": ("GlobalNet only", 66.6, 3.90),
            "cpn_concat": ("concatenation", 68.5, 5.87),
            "cpn_bottleneck": ("one bottleneck per level, concatenation", 69.2, 6.92),
            "cpn": ("**CPN**: 0 to 3 bottlenecks, concatenation", 69.4, 6.20),
        },
        [
            ("cpn_concat", "globalnet", "a RefineNet that only concatenates is better than no RefineNet"),
            ("cpn_bottleneck", "cpn_concat", "one bottleneck per level is better than concatenation only"),
            ("cpn", "cpn_bottleneck", "more bottlenecks on coarser levels are better than one per level"),
        ],
        "GlobalNet only is trained with L2, the other rows with L2 and OHKM.",
    ),
    "table3": Table(
        "CPN, Table 3: other architectures at a similar cost",
        {
            "resnet": ("ResNet", 41.3, 3.54),
            "dilated": ("ResNet, dilated from res4 on", 66.5, 17.71),
            "hourglass_1": ("hourglass, 1 stack", 54.5, 3.92),
            "hourglass_2": ("hourglass, 2 stacks", 66.5, 6.14),
            "simplebaseline": ("SimpleBaseline ¹", 70.4, 8.9),
            "globalnet": ("GlobalNet only", 66.6, 3.90),
            "cpn_l2": ("CPN\\*, without OHKM", 68.6, 6.20),
            "cpn": ("**CPN**", 69.4, 6.20),
        },
        [
            ("cpn", "resnet", "CPN is better than a plain ResNet"),
            ("cpn", "dilated", "CPN is better than a dilated ResNet"),
            ("cpn", "hourglass_2", "CPN is better than an hourglass with two stacks"),
            ("hourglass_2", "hourglass_1", "two hourglass stacks are better than one"),
            ("cpn_l2", "globalnet", "RefineNet helps without OHKM"),
            ("simplebaseline", "cpn", "SimpleBaseline is better than CPN (SimpleBaseline's paper)"),
        ],
        "The paper's networks differ in cost. The widths of the networks trained here are set such that all cost about "
        "as much as CPN. ResNets, hourglasses and SimpleBaseline are trained with the labels, loss and crops of their "
        "own references. All rows, CPN included, start from random weights. Results after long trainings are not "
        "measured here.\n\n"
        "¹ From SimpleBaseline's table (arXiv:1804.06208): its boxes have 56.4 person AP, CPN's 55.3; its GFLOPs count "
        "deconvolutions four times.",
    ),
    "mipnet": Table(
        "MIPNet: number of instances per box",
        {
            "crowd_1": ("N = 1, without MIMBs", 65.0, None),
            "crowd_2": ("**N = 2**", 74.1, None),
            "crowd_3": ("N = 3", None, None),
        },
        [("crowd_2", "crowd_1", "a second instance per box helps on crowded images")],
        "The networks are evaluated on composed scenes of three overlapping people, cut out of photos that are not in "
        "the training set. All three start from the weights of CPN\\* of the same seed and are trained for the same "
        "number of epochs again. The paper's values are those of HRNet-W48 on OCHuman val with ground-truth boxes; no "
        "published value for N = 3 is quoted. MACs are per instance. For the last AP column, of boxes that overlap "
        "with an IoU above 0.5 only the box with the most visible person is kept. [crowd_study.md](crowd_study.md) "
        "reports longer trainings.",
        ("AP", "PCK@0.2", "AP_one_box"),
    ),
    "table5": Table(
        "CPN, Table 5: input levels of RefineNet",
        {
            "cpn_c2": ("C2", 68.3, 5.02),
            "cpn_c2_c3": ("C2 and C3", 68.4, 5.50),
            "cpn_c2_c4": ("C2 to C4", 69.1, 5.88),
            "cpn": ("**C2 to C5** (CPN)", 69.4, 6.20),
        },
        [
            ("cpn", "cpn_c2", "all levels are better than the finest level only"),
            ("cpn", "cpn_c2_c4", "all levels are better than all but the coarsest"),
        ],
        "",
    ),
    "table6": Table(
        "CPN, Table 6: number of keypoints kept by OHKM",
        {
            "cpn_top6": ("M = 6", 68.8, None),
            "cpn": ("**M = 8** (CPN)", 69.4, None),
            "cpn_top10": ("M = 10", 69.0, None),
            "cpn_top12": ("M = 12", 69.0, None),
            "cpn_l2": ("all (CPN\\*)", 68.6, None),
        },
        [
            ("cpn", "cpn_top6", "eight keypoints are better than six"),
            ("cpn", "cpn_top12", "eight keypoints are better than twelve"),
        ],
        "In the paper, M keypoints are kept of COCO's 17. OHKM with all keypoints equals L2.",
    ),
    "table8": Table(
        "CPN, Table 8: crop size",
        {
            "cpn_l2": ("CPN\\*, 128x96 (paper: 256x192)", 68.6, 6.2),
            "cpn": ("CPN, 128x96 (paper: 256x192)", 69.4, 6.2),
            "cpn_l2_large": ("CPN\\*, 192x160 (paper: 384x288)", 70.6, 13.9),
            "cpn_large": ("CPN, 192x160 (paper: 384x288)", 71.6, 13.9),
        },
        [
            ("cpn_l2_large", "cpn_l2", "a larger crop helps CPN\\*"),
            ("cpn_large", "cpn", "a larger crop helps CPN"),
        ],
        "Both sizes of the paper have an aspect ratio of 4:3. The larger size used here is 6:5, since sides must be "
        "multiples of 32 and 256x192 costs four times as much as 128x96.",
    ),
}
# Training order: all seeds of a group are trained before the next group.
ORDER = [["table7"], ["table4"], ["table3"], ["mipnet"], ["table6", "table5", "table8"]]
DETECTOR_RESULTS = "person_fpn_lite0_people_416x416.json"
CROWDED = "crowd_"  # prefix of the rows that are scored on composed scenes

COLUMNS = {"AP": "AP", "PCK@0.2": "PCK@0.2", "AP_one_box": "AP, one box per overlapping pair"}
WIDTH = 120  # characters per line of prose


def values(results: Mapping, name: str, metric: str) -> list[float]:
    """Returns the metric x 100 of a row, one value per seed."""
    return [100 * found[metric] for found in results["rows"].get(name, {}).values()]


def seed_deviation(results: Mapping, like: str, metric: str) -> tuple[float, int]:
    """Returns the standard deviation between seeds and its degrees of freedom, 0 if no row has two seeds.

    The deviation is pooled over all rows that are scored on the same images as `like`, since an estimate from the two
    seeds of one row is imprecise.
    """
    squares, freedom = 0.0, 0
    for name in results["rows"]:
        found = values(results, name, metric) if name.startswith(CROWDED) == like.startswith(CROWDED) else []
        if len(found) > 1:
            squares += stdev(found) ** 2 * (len(found) - 1)
            freedom += len(found) - 1
    return (sqrt(squares / freedom) if freedom else 0.0), freedom


# Student's t for 95%, by degrees of freedom from 1; for more, 1.96 + 2.5 / freedom has an error below 0.02.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def verdict(
    better: Sequence[float], worse: Sequence[float], deviation: float, freedom: int
) -> tuple[float, float | None, str]:
    """Returns (difference of means, noise, verdict) for the claim that one row has a higher score than another.

    The noise is half of the difference's 95% interval, t * deviation * sqrt(1 / n + 1 / m). A difference above the
    noise confirms the claim, one below minus the noise does not confirm it, and any other is within noise.
    """
    difference = mean(better) - mean(worse)
    if not freedom:
        return difference, None, "undecided, with one seed"
    student = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96 + 2.5 / freedom
    noise = student * deviation * sqrt(1 / len(better) + 1 / len(worse))
    if abs(difference) <= noise:
        return difference, noise, "within noise"
    return difference, noise, "confirmed" if difference > 0 else "not confirmed"


def sentence(results: Mapping, table: Table, claim: tuple[str, str, str]) -> str:
    """Returns a list item with the claim, the published and the measured difference, and the verdict."""
    better, worse, words = claim
    papers = [table.rows[name][1] for name in (better, worse)]
    text = f"* {words[0].upper()}{words[1:]}: paper {papers[0] - papers[1]:+.1f} AP; here "
    if not all(values(results, name, "AP") for name in (better, worse)):
        return f"{text}not measured yet."
    parts = []
    for metric in ("AP", "PCK@0.2"):
        pair = [values(results, name, metric) for name in (better, worse)]
        difference, noise, found = verdict(*pair, *seed_deviation(results, better, metric))
        spread = "" if noise is None else f" (noise {noise:.1f})"
        parts.append((f"{difference:+.1f} {metric}{spread}", found))
    (ap, by_ap), (pck, by_pck) = parts
    return f"{text}{ap}: **{by_ap}**. By PCK, {pck}: {by_pck}."


def wrapped(text: str) -> str:
    """Wraps Markdown with one paragraph or list item per line at `WIDTH` characters."""
    return "\n".join(
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent="  " if line.startswith("* ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


def cell(found: Sequence[float]) -> str:
    """Returns the mean and half of the range of a row's seeds."""
    if not found:
        return "–"
    return f"{mean(found):.1f}" + (f" ± {(max(found) - min(found)) / 2:.1f}" if len(found) > 1 else "")


def section(results: Mapping, key: str) -> str:
    """Returns a table with its plot and claims as Markdown."""
    table = TABLES[key]
    has_cost = any(cost for _, _, cost in table.rows.values())
    head = ["row", "paper: AP", *(["paper: GFLOPs"] if has_cost else []), *(COLUMNS[key] for key in table.metrics)]
    head += ["seeds", "M parameters", "M MACs"]
    text = [f"\n## {table.title}\n", *([wrapped(table.text) + "\n"] if table.text else [])]
    text += [f"| {' | '.join(head)} |", f"| :-- |{' --: |' * (len(head) - 1)}"]
    for name, (label, ap, cost) in table.rows.items():
        row = [label, "–" if ap is None else f"{ap:.1f}", *([f"{cost:.2f}" if cost else "–"] if has_cost else [])]
        row += [cell(values(results, name, metric)) for metric in table.metrics]
        seeds = results["rows"].get(name, {})
        one = next(iter(seeds.values()), None)
        row += [str(len(seeds)), *([f"{one['num_params'] / 1e6:.2f}", f"{one['macs'] / 1e6:.0f}"] if one else "––")]
        text.append(f"| {' | '.join(row)} |")
    text += ["", *(wrapped(sentence(results, table, claim)) for claim in table.claims), ""]
    if any(name in results["rows"] for name in table.rows):
        text.append(f"![{table.title}](images/ablations_{key}.svg)")
    return "\n".join(text)


def plot(results: Mapping, key: str) -> str:
    """Returns the published and the measured AP as SVG, with one dot per seed."""
    table = TABLES[key]
    panels: dict = {"paper, AP": {}, "here, AP": {}}
    for name, (label, ap, _) in table.rows.items():
        label = label.replace("**", "").replace("\\*", "*").split(" (paper")[0]
        panels["paper, AP"][label] = [] if ap is None else [ap]
        panels["here, AP"][label] = values(results, name, "AP")
    return dots(panels)


# Table 1 of CPN: AP and AR of person boxes by (suppression, IoU threshold). The detector is an FPN on ResNet-101.
PAPER_BOXES = {
    ("hard", 0.3): (53.5, 60.3),
    ("hard", 0.4): (54.4, 61.7),
    ("hard", 0.5): (54.9, 62.9),
    ("hard", 0.6): (55.2, 64.3),
    ("soft", None): (55.3, 67.0),
}
SUPPRESSION = {"hard": "hard NMS", "linear": "soft-NMS, linear", "gaussian": "soft-NMS, Gaussian"}


def boxes_section(found: Mapping) -> str:
    """Returns the part on person boxes of CPN's Table 1, of the results file of the person detector."""
    lines = [f"\n## CPN, Table 1: suppression of person boxes\n\n{wrapped(BOXES.format(**found))}"]
    lines += ["| suppression | paper: AP | paper: AR | AP | AP50 | AR |", "| :-- | --: | --: | --: | --: | --: |"]
    for row in found["nms"]:
        kind = row["suppression"]
        setting = f"IoU {row['max_iou']:.2f}" if "max_iou" in row else f"σ {row['sigma']}"
        paper = PAPER_BOXES.get((kind, row.get("max_iou")), ("–", "–"))
        ours = (f"{100 * row[name]:.1f}" for name in ("AP", "AP50", "AR"))
        lines.append(f"| {SUPPRESSION[kind]}, {setting} | {' | '.join(map(str, (*paper, *ours)))} |")
    lines.append("| soft-NMS, parameters not stated | {} | {} | – | – | – |".format(*PAPER_BOXES["soft", None]))
    hard, soft = (
        max(row["AP"] for row in found["nms"] if (row["suppression"] == "hard") == is_hard) for is_hard in (True, False)
    )
    gain = PAPER_BOXES["soft", None][0] - max(ap for (kind, _), (ap, _) in PAPER_BOXES.items() if kind == "hard")
    result = "confirmed" if soft > hard else "not confirmed"
    lines.append(
        f"\n* Soft-NMS has a higher AP than hard NMS at any threshold: paper {gain:+.1f} AP; here "
        f"{100 * (soft - hard):+.1f} AP: **{result}**. There is one detector, so the noise is unknown."
    )
    return "\n".join(lines)


def page(results: Mapping, boxes: Mapping | None = None) -> str:
    """Returns the whole page as Markdown.

    Args:
        results: The results file of the ablations.
        boxes: The results file of the person detector; None leaves its section out.
    """
    shown = sorted((table for group in ORDER for table in group), key=list(TABLES).index)
    sections = [section(results, key) for key in shown]
    deviations = {
        where: [seed_deviation(results, like, metric) for metric in ("AP", "PCK@0.2")]
        for where, like in (("photos", "cpn"), ("composed scenes", CROWDED))
    }
    noise = "; ".join(
        f"{where}: {ap:.2f} AP and {pck:.2f} PCK, {freedom} degrees of freedom" if freedom else f"{where}: unknown"
        for where, ((ap, freedom), (pck, _)) in deviations.items()
    )
    alone = [
        found for name, seeds in results["rows"].items() if not name.startswith(CROWDED) for found in seeds.values()
    ]
    counts = [f"{alone[0][key]:,}" if alone else "no" for key in ("num_train", "num_val")]
    introduction = wrapped(INTRODUCTION.format(**results, noise=noise, counts=counts))
    return introduction + "\n".join([*sections, *([boxes_section(boxes)] if boxes else []), wrapped(LIMITS)])


BOXES = (
    "AP and AR of the boxes of `{weights}` on {nms_set}, with COCO's detection evaluation, `iscrowd` ignored. "
    "The paper's figures are those of an FPN on ResNet-101 on COCO minival. "
    "`python recipes/person_fpn_results.py` measures ours.\n"
)


# One paragraph or list item per line; `wrapped` breaks the lines.
INTRODUCTION = (
    "# Ablation studies of CPN and MIPNet\n\n"
    "Measured with `{command}` ({settings[versions]}).\n"
    "`python recipes/ablations.py --page docs/results.md` generates this page from "
    "[results/ablations.json](results/ablations.json).\n\n"
    "The papers' values are for COCO minival with the boxes of a detector, much larger networks and trainings of "
    "several days.\n\n"
    "Unless a table states otherwise, every row is trained on the same {counts[0]} photos of athletes (Leeds Sports "
    "Pose Extended, 14 keypoints) with crops of 128x96:\n\n"
    "* training: {settings[epochs]} epochs, batch size {settings[batch_size]}, Adam with cosine decay from a learning "
    "rate of {settings[learning_rate]}, {settings[precision]}\n"
    "* augmentation: {settings[augment]}\n"
    "* evaluation: AP and PCK@0.2 x 100 on {counts[1]} held-out photos with ground-truth boxes and flip test; mean of "
    "the seeds ± half of their range\n\n"
    "**Verdicts.** The noise of a difference is half of its 95% interval: Student's t times the standard error, from "
    "the standard deviation between seeds, pooled over all rows with two seeds ({noise}).\n\n"
    "* *Confirmed*: the difference is above the noise and has the same sign as in the paper.\n"
    "* *Not confirmed*: the difference is above the noise and has the opposite sign.\n"
    "* *Within noise*: the difference is below the noise. This does not contradict the paper.\n"
)


LIMITS = (
    "\n## Limitations\n\n"
    "The networks are small, are trained for a short time from random weights, and use one data set. Methods that pay "
    "off late in a training, such as hard keypoint mining after the easy keypoints are learned, may show no gain here. "
    "Methods that speed up early training may show a larger gain than after a long training. The pooled standard "
    "deviation assumes the same variance for all rows.\n"
)


def write(results_path: Path, path: Path) -> Path:
    """Writes the page and its plots."""
    results = json.loads(results_path.read_text("utf-8"))
    boxes = json.loads((results_path.parent / DETECTOR_RESULTS).read_text("utf-8"))
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    for key in TABLES:
        if any(name in results["rows"] for name in TABLES[key].rows):
            (path.parent / "images" / f"ablations_{key}.svg").write_text(plot(results, key), "utf-8")
    path.write_text(page(results, boxes), "utf-8")
    return path
