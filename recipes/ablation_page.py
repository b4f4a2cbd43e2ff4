"""What `ablations.py` measured, as a page: tables beside the papers' figures, plots, and a verdict on each claim.

A verdict is decided, not written: `verdict` compares a difference of means with what seeds alone make of it.
"""

import json
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
        title: What it is about.
        rows: Name of the row to (label, the paper's AP or None, its GFLOPs or None).
        claims: (row, row that it beats in the paper, what this says).
        text: What a reader must know of it.
        metrics: What is shown of ours, by the key in the results file.
    """

    title: str
    rows: Mapping[str, tuple[str, float | None, float | None]]
    claims: Sequence[tuple[str, str, str]]
    text: str
    metrics: Sequence[str] = ("AP", "PCK@0.2")


TABLES = {
    "table7": Table(
        "CPN, Table 7: the losses of GlobalNet and RefineNet",
        {
            "cpn_refine_l2": ("none, L2", 68.2, None),
            "cpn_l2": ("L2, L2 (CPN\\*)", 68.6, None),
            "cpn_refine_ohkm": ("none, OHKM", 68.5, None),
            "cpn": ("**L2, OHKM** (CPN)", 69.4, None),
            "cpn_ohkm_ohkm": ("OHKM, OHKM", 69.1, None),
        },
        [
            ("cpn", "cpn_l2", "OHKM on RefineNet is better than L2"),
            ("cpn_l2", "cpn_refine_l2", "supervising GlobalNet helps a RefineNet that learns by L2"),
            ("cpn", "cpn_refine_ohkm", "supervising GlobalNet helps a RefineNet that learns by OHKM"),
            ("cpn", "cpn_ohkm_ohkm", "OHKM belongs on RefineNet alone"),
        ],
        "Rows name the loss of GlobalNet, then that of RefineNet; OHKM keeps the 8 worst of the data's keypoints.",
    ),
    "table4": Table(
        "CPN, Table 4: designs of RefineNet",
        {
            "globalnet": ("GlobalNet alone", 66.6, 3.90),
            "cpn_concat": ("concatenation", 68.5, 5.87),
            "cpn_bottleneck": ("one bottleneck a level, concatenation", 69.2, 6.92),
            "cpn": ("**CPN**: 0 to 3 bottlenecks, concatenation", 69.4, 6.20),
        },
        [
            ("cpn_concat", "globalnet", "a RefineNet that only concatenates beats GlobalNet alone"),
            ("cpn_bottleneck", "cpn_concat", "a bottleneck on each level beats plain concatenation"),
            ("cpn", "cpn_bottleneck", "more bottlenecks on coarser levels beat one on each"),
        ],
        "GlobalNet alone learns by L2, the others by L2 and OHKM.",
    ),
    "table3": Table(
        "CPN, Table 3: other networks at about the same cost",
        {
            "resnet": ("ResNet", 41.3, 3.54),
            "dilated": ("ResNet, dilated from res4 on", 66.5, 17.71),
            "hourglass_1": ("hourglass, 1 stack", 54.5, 3.92),
            "hourglass_2": ("hourglass, 2 stacks", 66.5, 6.14),
            "simplebaseline": ("SimpleBaseline ¹", 70.4, 8.9),
            "globalnet": ("GlobalNet alone", 66.6, 3.90),
            "cpn_l2": ("CPN\\*, without OHKM", 68.6, 6.20),
            "cpn": ("**CPN**", 69.4, 6.20),
        },
        [
            ("cpn", "resnet", "CPN beats a plain ResNet"),
            ("cpn", "dilated", "CPN beats a dilated ResNet"),
            ("cpn", "hourglass_2", "CPN beats two stacks of hourglasses"),
            ("hourglass_2", "hourglass_1", "two stacks beat one"),
            ("cpn_l2", "globalnet", "RefineNet helps without OHKM, too"),
            ("simplebaseline", "cpn", "SimpleBaseline beats CPN, in its authors' table"),
        ],
        "The paper's networks differ in cost; ours were widened or narrowed to about that of CPN. ResNets, hourglasses "
        "and SimpleBaseline learn by their own labels, loss and crops, from nothing as CPN does; what they would reach "
        "after a long training is not measured here.\n\n"
        "¹ SimpleBaseline's own table (arXiv:1804.06208), with boxes of 56.4 person AP where CPN's are of 55.3, and "
        "deconvolutions counted four times.",
    ),
    "mipnet": Table(
        "MIPNet: how many people a box may hold",
        {
            "crowd_1": ("N = 1, without MIMBs", 65.0, None),
            "crowd_2": ("**N = 2**", 74.1, None),
            "crowd_3": ("N = 3", None, None),
        },
        [("crowd_2", "crowd_1", "a second answer for each box helps in crowds")],
        "Composed scenes of three people who overlap, from other photos than those learned from. All three go on from "
        "the weights of CPN\\* with the same seed, for as many epochs again. The paper's figures are HRNet-W48's on "
        "OCHuman val with annotated boxes; we have none for N = 3 to quote. MACs are those of one answer. The last "
        "column keeps, of boxes that overlap by more than an IoU of 0.5, the one whose person is best visible. "
        "[crowd_study.md](crowd_study.md) trains such twins longer.",
        ("AP", "PCK@0.2", "AP_one_box"),
    ),
    "table5": Table(
        "CPN, Table 5: the levels that RefineNet sees",
        {
            "cpn_c2": ("C2", 68.3, 5.02),
            "cpn_c2_c3": ("C2 and C3", 68.4, 5.50),
            "cpn_c2_c4": ("C2 to C4", 69.1, 5.88),
            "cpn": ("**C2 to C5** (CPN)", 69.4, 6.20),
        },
        [
            ("cpn", "cpn_c2", "all levels are better than the finest alone"),
            ("cpn", "cpn_c2_c4", "the coarsest level still helps"),
        ],
        "",
    ),
    "table6": Table(
        "CPN, Table 6: how many keypoints OHKM keeps",
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
        "The paper's M are of COCO's 17 keypoints. With all of them OHKM is L2.",
    ),
    "table8": Table(
        "CPN, Table 8: the crop's size",
        {
            "cpn_l2": ("CPN\\*, 128x96 (paper: 256x192)", 68.6, 6.2),
            "cpn": ("CPN, 128x96 (paper: 256x192)", 69.4, 6.2),
            "cpn_l2_large": ("CPN\\*, 192x160 (paper: 384x288)", 70.6, 13.9),
            "cpn_large": ("CPN, 192x160 (paper: 384x288)", 71.6, 13.9),
        },
        [
            ("cpn_l2_large", "cpn_l2", "larger crops help CPN\\*"),
            ("cpn_large", "cpn", "larger crops help CPN"),
        ],
        "The paper's two sizes are both 4:3; of ours the larger one is 6:5: sides must be multiples of 32, and 256x192 "
        "costs four times as much as 128x96.",
    ),
}
# The order of the trainings: all seeds of a group come before the next.
ORDER = [["table7"], ["table4"], ["table3"], ["mipnet"], ["table6", "table5", "table8"]]
CROWDED = "crowd_"  # begins the names of rows that are scored on composed scenes

COLUMNS = {"AP": "AP", "PCK@0.2": "PCK@0.2", "AP_one_box": "AP, one box of each overlapping pair"}


def values(results: Mapping, name: str, metric: str) -> list[float]:
    """Returns a row's figures x 100, one for each seed."""
    return [100 * found[metric] for found in results["rows"].get(name, {}).values()]


def seed_deviation(results: Mapping, like: str, metric: str) -> tuple[float, int]:
    """Returns the standard deviation between seeds and its degrees of freedom, 0 where no row has two seeds.

    It is pooled over all rows that are scored on what `like` is scored on: two seeds say little of a row's own
    deviation, those of all rows together say more.
    """
    squares, freedom = 0.0, 0
    for name in results["rows"]:
        found = values(results, name, metric) if name.startswith(CROWDED) == like.startswith(CROWDED) else []
        if len(found) > 1:
            squares += stdev(found) ** 2 * (len(found) - 1)
            freedom += len(found) - 1
    return (sqrt(squares / freedom) if freedom else 0.0), freedom


# Student's t for 95%, by degrees of freedom from 1; beyond, 1.96 + 2.5 / freedom is right to 0.02.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


def verdict(
    better: Sequence[float], worse: Sequence[float], deviation: float, freedom: int
) -> tuple[float, float | None, str]:
    """Returns (difference of means, noise, verdict) on a claim that one row beats another.

    The noise is half of the difference's 95% interval, t * deviation * sqrt(1 / n + 1 / m). A difference beyond it
    confirms the claim, one beyond it in the other direction does not, and all between is noise.
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
    """Returns what the paper says, what was measured, and the verdict."""
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


def cell(found: Sequence[float]) -> str:
    """Returns the mean and half of the range of one row's seeds."""
    if not found:
        return "–"
    return f"{mean(found):.1f}" + (f" ± {(max(found) - min(found)) / 2:.1f}" if len(found) > 1 else "")


def section(results: Mapping, key: str) -> str:
    """Returns a table with its plot and sentences as Markdown."""
    table = TABLES[key]
    has_cost = any(cost for _, _, cost in table.rows.values())
    head = ["row", "paper: AP", *(["paper: GFLOPs"] if has_cost else []), *(COLUMNS[key] for key in table.metrics)]
    head += ["seeds", "M parameters", "M MACs"]
    text = [f"\n## {table.title}\n", *([table.text + "\n"] if table.text else [])]
    text += [f"| {' | '.join(head)} |", f"| :-- |{' --: |' * (len(head) - 1)}"]
    for name, (label, ap, cost) in table.rows.items():
        row = [label, "–" if ap is None else f"{ap:.1f}", *([f"{cost:.2f}" if cost else "–"] if has_cost else [])]
        row += [cell(values(results, name, metric)) for metric in table.metrics]
        seeds = results["rows"].get(name, {})
        one = next(iter(seeds.values()), None)
        row += [str(len(seeds)), *([f"{one['num_params'] / 1e6:.2f}", f"{one['macs'] / 1e6:.0f}"] if one else "––")]
        text.append(f"| {' | '.join(row)} |")
    text += ["", *(sentence(results, table, claim) for claim in table.claims), ""]
    if any(name in results["rows"] for name in table.rows):
        text.append(f"![{table.title}](images/ablations_{key}.svg)")
    return "\n".join(text)


def plot(results: Mapping, key: str) -> str:
    """Returns the paper's AP and ours, a dot for each seed, as SVG."""
    table = TABLES[key]
    panels: dict = {"paper, AP": {}, "here, AP": {}}
    for name, (label, ap, _) in table.rows.items():
        label = label.replace("**", "").replace("\\*", "*").split(" (paper")[0]
        panels["paper, AP"][label] = [] if ap is None else [ap]
        panels["here, AP"][label] = values(results, name, "AP")
    return dots(panels)


def page(results: Mapping) -> str:
    """Returns the whole page as Markdown."""
    shown = sorted((table for group in ORDER for table in group), key=list(TABLES).index)
    sections = [section(results, key) for key in shown]
    deviations = {
        where: [seed_deviation(results, like, metric) for metric in ("AP", "PCK@0.2")]
        for where, like in (("on photos", "cpn"), ("in crowds", CROWDED))
    }
    told = "; ".join(
        f"{where} {ap:.2f} AP and {pck:.2f} PCK, {freedom} degrees of freedom" if freedom else f"{where} not known yet"
        for where, ((ap, freedom), (pck, _)) in deviations.items()
    )
    alone = [
        found for name, seeds in results["rows"].items() if not name.startswith(CROWDED) for found in seeds.values()
    ]
    counts = [f"{alone[0][key]:,}" if alone else "no" for key in ("num_train", "num_val")]
    return INTRODUCTION.format(**results, told=told, counts=counts) + "\n".join([*sections, CARE])


INTRODUCTION = """\
# What the parts of CPN and MIPNet are worth

Made by `{command}`, this page by `python recipes/ablations.py --page docs/results.md`; the numbers are in
[results/ablations.json](results/ablations.json) ({settings[versions]}). The papers' figures are
theirs: COCO minival with a detector's boxes, far larger networks, trainings of days.

Here every row learns the same {counts[0]} photos of athletes (Leeds Sports Pose Extended, 14 keypoints) at 128x96,
unless its table says otherwise:

* {settings[epochs]} epochs in batches of {settings[batch_size]}, Adam at {settings[learning_rate]} on one cosine,
  {settings[precision]}
* {settings[augment]}
* AP and PCK@0.2 x 100 of {counts[1]} held-out photos, annotated boxes, flip test: mean of the seeds ± half
  of their range

**How a claim is judged.** The noise of a difference is half of its 95% interval: Student's t times its standard error,
from the deviation between seeds, pooled over all rows that have two ({told}).
*Confirmed*: the difference has the paper's sign and exceeds the noise. *Not confirmed*: it exceeds it with the other
sign. *Within noise*: neither; the paper may still be right.
"""


CARE = """
## To be read with care

These are small networks early in their training, from nothing, on one data set. What pays off late, such as mining
hard keypoints when the easy ones are learned, may not show; what learns fast is flattered. Pooled deviations assume
that all rows vary alike.
"""


def write(results_path: Path, path: Path) -> Path:
    """Writes the page and its plots."""
    results = json.loads(results_path.read_text())
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    for key in TABLES:
        if any(name in results["rows"] for name in TABLES[key].rows):
            (path.parent / "images" / f"ablations_{key}.svg").write_text(plot(results, key))
    path.write_text(page(results))
    return path
