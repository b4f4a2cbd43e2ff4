"""The weights in the package: complete, small, and described by an up-to-date page.

python tests/test_shipped.py --write     # writes docs/shipped_weights.md from the rows and their results files
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import kpzoo
from kpzoo import cli
from kpzoo.commands.predict import DEFAULT_MODEL
from kpzoo.errors import UserError
from kpzoo.inference import detectors
from kpzoo.inference.person_detector import MIN_SCORE
from kpzoo.weights import published

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/shipped_weights.md"
STAGES = ROOT / "docs/results/cpn_lite0_people_stages.json"
LARGEST = 10_000_000  # bytes
SHIPPED = {tag: row for tag, row in published.ROWS.items() if row.is_shipped}
PEOPLE = {tag: row for tag, row in SHIPPED.items() if row.skeleton == "coco17"}
ATHLETES = {tag: row for tag, row in SHIPPED.items() if row.skeleton == "crowdpose14"}
DETECTORS = {tag: row for tag, row in SHIPPED.items() if not row.skeleton}

TEXT = """# Weights included in kpzoo

`kpzoo predict photo.jpg --out poses` detects people and predicts their poses without a download. Kernels are stored as
float16.

## Poses of people

Networks for CPUs with COCO's 17 keypoints, trained on ordinary photos. `{default}` is the default of `kpzoo predict`.

{people}

All figures are with annotated boxes and flip test. [comparison.md](comparison.md) has more, next to MoveNet Thunder.
`lspet val` has 14 keypoints, of which 12 are shared.

    kpzoo evaluate --model {default} --annotations coco_people/annotations/coco_people_val.json \\
        --images coco_people/images/val

**Data.** Labelled by people: 1,928 photos of COCO 2017 (5,244 persons), 43 more of COCO's train2017, 1,338 photos of
MPII Human Pose, 2,000 of Leeds Sports Pose, 6,284 of its extension, 305 of PARSE. Labelled by MoveNet Thunder: photos
of Stanford 40 Actions, and the faces in those of Leeds Sports Pose Extended. A keypoint that a data set does not label
has no weight in the loss. Most of the COCO photos are of val2017: results on the official val2017 are not valid.

**Training.** [recipes/lite0.py](../recipes/lite0.py), in these stages:

{stages}

AP is that of coco_people val with flip test. The training is shorter than the recipe and much shorter than those of the
papers; the accuracy was still rising. "blurred" labels are those of CPN, centred at a cell of the heatmap, "exact" ones
are centred at the keypoint. The crops of the last three stages are augmented as in the recipe, those before as in CPN.
The weights between the stages were not kept, so their AP cannot be measured again.

**Limitations.** Keypoints are found at the right limb more often than at the exact place: AP50 is far higher than AP75.
People smaller than about 50 pixels, people hidden by others, and unusual postures give bad poses. The scores of
keypoints are calibrated on photos of COCO; on others they can be too high or too low.

**Origin and terms.** For research. Trained on {terms}. kpzoo contains none of the photos.

## Poses of athletes

A small network for CPUs with CrowdPose's 14 keypoints, trained on photos of athletes. It predicts two people per box.

{table}

Measured on the 1,000 held-out photos of the data set's val split, with ground-truth boxes and flip test:

    kpzoo evaluate --model {first} --annotations lspet/annotations/lspet_val.json --images lspet/images/val --json

PCK@0.2 is that of the first instance; AP includes both instances. The network was trained on composed scenes of these
photos with light crowding. [crowd_study.md](crowd_study.md) has its AP on crowded scenes.

PCK@0.2 is the share of keypoints within a fifth of the torso's length. Two annotators of the same photo agree on about
three of four keypoints within a tenth of the person's size.

**Origin and terms.** Photos and labels: Leeds Sports Pose Extended, S. Johnson and M. Everingham, *Learning Effective
Human Pose Estimation from Inaccurate Annotation*, CVPR 2011, which requires this citation. The photos belong to their
authors on Flickr, and the data set has no licence: the weights are for research. kpzoo contains none of its photos.

**Limitations.** The network works best for people who fill their box and stand, run, jump or hang. The training set has
few people in work clothes, children and wheelchairs, and no people smaller than about a hundred pixels.

## Person boxes

| tag | input | parameters | file | photos | AP | AP50 | AP75 | AR |
| :-- | :-- | :-- | :-- | :-- | :-- | :-- | :-- | :-- |
{detectors}

AP and AR of the person boxes with COCO's detection evaluation, in which `iscrowd` annotations are ignored:

    kpzoo detect coco_real/images/val --min-box-score 0.01 --out boxes.json
    kpzoo evaluate --detections boxes.json --annotations coco_real/annotations/person_keypoints_val.json

`coco_people` val has 300 COCO photos of at most 480 pixels with 783 labelled persons; its ignored boxes were generated
with NanoDet-g. `coco_real` val has 50 COCO photos with COCO's boxes and crowds. The training set contains photos of
COCO's val2017, so that results on the official val2017 are not valid.

**Score threshold.** The maximum of F1 at an IoU of 0.5 is
{f1}.
The default of `kpzoo predict` and `kpzoo detect`, {min_score}, is between these scores. `--min-box-score` sets it.

**Box suppression** by hard NMS and soft-NMS is compared in [results.md](results.md). `python
recipes/person_fpn_results.py` measures all of these figures.

The training was short: {step:,} of the 12,000 steps of the [recipe](../{recipe}), with a batch of 16. The first
{decay_from:,} were at 320x320 with a constant learning rate, the others at 416x416 with a learning rate that falls to
0.

**Origin and terms.** The trunk was initialised with the ImageNet weights of EfficientNet-Lite0 (Apache-2.0). The
detector was trained on COCO 2017 (annotations CC BY 4.0, COCO Consortium; the photos belong to their authors and are
under Flickr's terms), Stanford 40 Actions, PASCAL VOC 2012, Flickr8k, HumanV2 and sports photos. Some of the boxes were
generated with NanoDet-g (Apache-2.0), which is not part of kpzoo. Several of these data sets are for research only, and
so are the weights. kpzoo contains none of the photos.
"""


def results(row: published.Weights) -> dict:
    return json.loads((ROOT / row.metrics).read_text())


def page() -> str:
    lines = ["| tag | crops | parameters | file | PCK@0.2 | AP | AP50 | trained by |", "|" + " :-- |" * 8]
    for tag, row in ATHLETES.items():
        values, size = results(row)["metrics"], published.fetch(tag).stat().st_size
        figures = " | ".join(f"{values[name]:.3f}" for name in ("PCK@0.2", "AP", "AP50"))
        params = kpzoo.info(row.model).num_params
        lines.append(
            f"| `{tag}` | {row.image_hw[0]}x{row.image_hw[1]} | {params / 1e6:.2f} M | {size / 1e6:.1f} MB | {figures} "
            f"| [{row.recipe}](../{row.recipe.split()[0]}) |"
        )
    [detector] = DETECTORS.values()
    return TEXT.format(
        table="\n".join(lines),
        first=next(iter(ATHLETES.values())).model,
        default=DEFAULT_MODEL,
        people=people_table(),
        stages=stage_table(),
        terms=next(iter(PEOPLE.values())).license.partition(": ")[2].removeprefix("trained on "),
        detectors=detector_table(),
        **detector_texts(results(detector)),
        recipe=detector.recipe.split()[0],
    )


def of_people(tag: str, row: published.Weights) -> dict:
    """Returns the figures in annotated boxes with flip test, by data set."""
    return {name: ways["annotated boxes"][f"{tag}, flip test"] for name, ways in results(row)["sets"].items()}


def people_table() -> str:
    lines = ["| tag | crops | parameters | file | photos | AP | AP50 | AP75 | PCK@0.2 |", "|" + " :-- |" * 9]
    for tag, row in PEOPLE.items():
        size, params = published.fetch(tag).stat().st_size, kpzoo.info(row.model).num_params
        start = f"| `{tag}` | {row.image_hw[0]}x{row.image_hw[1]} | {params / 1e6:.2f} M | {size / 1e6:.1f} MB |"
        for photos, values in of_people(tag, row).items():
            figures = " | ".join(f"{values[name]:.3f}" for name in ("AP", "AP50", "AP75", "PCK"))
            lines.append(f"{start} {photos} | {figures} |")
    return "\n".join(lines)


def stage_table() -> str:
    lines = ["| crops | steps of 32 | learning rate | labels | data sets | AP |", "|" + " :-- |" * 6]
    for stage in json.loads(STAGES.read_text())["stages"]:
        rate = f"{stage['learning_rate']:g}" + (", to 0 by a cosine" if stage["decays"] else "")
        size = "{}x{}".format(*stage["image_hw"])
        data = ", ".join(stage["data"])
        lines.append(f"| {size} | {stage['steps']:,} | {rate} | {stage['labels']} | {data} | {stage['AP']:.3f} |")
    return "\n".join(lines)


def detector_table() -> str:
    lines = []
    for tag, row in DETECTORS.items():
        size, params = published.fetch(tag).stat().st_size, kpzoo.info(row.model).num_params
        start = f"| `{tag}` | {row.image_hw[0]}x{row.image_hw[1]} | {params / 1e6:.2f} M | {size / 1e6:.1f} MB |"
        for photos, part in results(row)["sets"].items():
            figures = " | ".join(f"{part['metrics'][name]:.3f}" for name in ("AP", "AP50", "AP75", "AR"))
            lines.append(f"{start} {photos} | {figures} |")
    return "\n".join(lines)


def detector_texts(told: dict) -> dict:
    """Returns the texts of the page on a detector's results."""
    f1 = " and ".join(
        f"{part['metrics']['F1']:.3f} at a score of {part['F1_min_score']:.2f} on {name}"
        for name, part in told["sets"].items()
    )
    return dict(f1=f1, step=told["step"], decay_from=told["decay_from"], min_score=MIN_SCORE)


def test_some_weights_are_shipped_and_their_page_is_up_to_date():
    assert SHIPPED
    assert PAGE.read_text() == page(), "run `python tests/test_shipped.py --write`"


def test_the_default_detector_needs_no_download(monkeypatch, tmp_path):
    monkeypatch.setenv("KPZOO_OFFLINE", "1")
    monkeypatch.setenv("KPZOO_HOME", str(tmp_path / "no_home"))
    detector = detectors.get()
    assert detector.weights in DETECTORS and detectors.get(detector.weights).weights == detector.weights
    [boxes], [scores] = detector.detect([np.full((60, 80, 3), 127, np.uint8)])
    assert boxes.shape == (len(scores), 4)


@pytest.mark.parametrize("tag", SHIPPED)
def test_shipped_weights_are_small_and_say_whose_they_are(tag):
    row, path = SHIPPED[tag], published.fetch(tag)
    assert path.stat().st_size <= LARGEST
    assert (ROOT / row.recipe.split()[0]).exists()  # a page, and the name of one of its runs where it has a table
    model = kpzoo.build(row.model, weights=tag)
    assert model.preset.image_hw == row.image_hw
    assert (model.preset.skeleton and model.preset.skeleton.name) == row.skeleton
    told = results(row)
    if tag in PEOPLE:
        assert {"coco_people val", "coco_real val"} <= set(of_people(tag, row))
    elif row.skeleton:
        assert (told["model"], told["boxes"], told["flip_test"]) == (row.model, "gt (annotated)", True)
    else:
        assert (told["weights"], {part["protocol"] for part in told["sets"].values()}) == (tag, {"boxes"})


def test_weights_that_were_changed_are_refused(monkeypatch):
    tag, row = next(iter(SHIPPED.items()))
    monkeypatch.setitem(published.ROWS, tag, replace(row, sha256="0" * 64))
    with pytest.raises(UserError, match="damaged or missing.*Reinstall kpzoo"):
        published.fetch(tag)


def test_a_picture_is_all_that_predict_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KPZOO_OFFLINE", "1")
    monkeypatch.setenv("KPZOO_HOME", str(tmp_path / "no_home"))
    scenes = tmp_path / "scenes"
    assert cli.main(["data", "make", str(scenes), "--images", "1"]) == 0
    picture = next((scenes / "images").rglob("*.png"), None) or next((scenes / "images").rglob("*.jpg"))
    capsys.readouterr()
    assert cli.main(["predict", str(picture), "--detector", "whole", "--out", str(tmp_path / "poses")]) == 0
    assert f"kpzoo: weights {DEFAULT_MODEL}." in capsys.readouterr().err
    found = json.loads((tmp_path / "poses/results.json").read_text())
    assert found and len(found[0]["keypoints"]) == 3 * 17
    assert np.isfinite(found[0]["keypoints"]).all()


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    PAGE.write_text(page())
