"""The effect of MIMBs on crowded images: two networks that differ only in the MIMBs, on drawn and composed scenes.

    python recipes/crowd_study.py --out runs/crowd_study --photos ~/lspet    # about two hours on two CPU cores
    python recipes/crowd_study.py --page docs/crowd_study.md                 # rewrites the page from the results file

Two networks start from the weights of the same small CPN and are trained for the same number of steps on the same
crops: the CPN itself, and the CPN with MIMBs and a second instance, as MIPNet is trained from its baseline
(arXiv:2101.11223). The initial weights are those of a CPN trained on the same scenes or, for photos, those in
`--weights`.
Both are evaluated on held-out scenes in which the boxes overlap between not at all and as much as in OCHuman: with all
ground-truth boxes, and with only the box of the most visible person of each overlapping group. `--photos` is any folder
of annotated people in COCO format with the splits train and val; without it, only drawn scenes are used. The training
scenes use all people of the photos. The held-out scenes use people who stand upright; one more set uses people in any
posture, and another set contains only people with most keypoints visible. An interrupted study is resumed.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

import kpzoo
from kpzoo import evaluation, images, training
from kpzoo.data import augment
from kpzoo.errors import UserError
from kpzoo.evaluation.report import overlap
from kpzoo.files import prepare_streams, write_json
from kpzoo.html.charts import lines
from kpzoo.inference import POSE_NMS, predict_boxes
from kpzoo.losses import CPNLoss, MultiInstanceLoss
from kpzoo.nms import oks
from kpzoo.scenes import composed, drawn

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("runs/crowd_study"), help="folder for all output")
parser.add_argument("--photos", type=Path, help="folder of photos in COCO format, to compose crowds from")
parser.add_argument("--only", choices=("figures", "photos", "photos_light"), help="scenes to study (default: all)")
parser.add_argument("--weights", type=Path, help="initial cpn_nano weights for photos, instead of a common training")
parser.add_argument("--start-epochs", type=int, default=14, help="epochs of the common training")
parser.add_argument("--epochs", type=int, default=14, help="epochs of each network after the common training")
parser.add_argument("--seed", type=int, default=0, help="random seed of weights, order and augmentation")
parser.add_argument("--results", type=Path, default=Path("docs/results/crowd_study.json"), help="results file")
parser.add_argument("--page", type=Path, help="only write this page from the results file")
parser.add_argument("--smoke", action="store_true", help="train tiny models for a few steps, as a test")

IMAGE_HW = (128, 96)
BATCH_SIZE = 16
LEARNING_RATES = {"start": 5e-3, "single": 3e-3, "multi": 3e-3}
AUGMENT = augment.Augment(scale=(0.85, 1.2), rotation=20.0, rotation_probability=0.6, flip_probability=0.5)
# Closeness of the people in the training scenes: below that of the most crowded held-out scenes. `photos_light` trains
# on less crowded scenes, as MIPNet is trained on COCO and evaluated on OCHuman. A third of the scenes shows one person.
TRAIN_CROWDING = {"figures": 0.8, "photos": 0.8, "photos_light": 0.4}
CROWDING = {"apart": 0.0, "near": 0.25, "touching": 0.5, "close": 0.75, "ochuman": 1.0}
VISIBLE = "seen"  # scenes like "ochuman" in which boxes overlap by 0.5 or more and most keypoints are visible
ANY_POSTURE = "anybody"  # as crowded as "ochuman", with people in any posture
NUM_TRAIN, NUM_HELD_OUT, NUM_TO_CHOOSE = 2500, 300, 2400
REMARKS = {VISIBLE: ", people mostly visible", ANY_POSTURE: ", any posture"}
MIN_VISIBLE = 0.6  # share of a person's labelled keypoints
UPRIGHT = {"shoulder": ("hip", 40.0), "hip": ("ankle", 50.0)}  # maximum degrees from the vertical
FIGURES = ("AP", "AP50", "AR", "PCK@0.2")
ONE_BOX_IOU = 0.5
TWINS = {"single": "without MIMBs", "multi": "with MIMBs"}
MATCHES = ("own", "another", "none")  # the person a pose matches: that of the box, another, or none
TITLES = {
    "figures": "Drawn figures",
    "photos": "People cut out of photos",
    "photos_light": "People cut out of photos, trained on less crowded scenes",
}


def make_scenes(kind: str, folder: Path, args) -> None:
    """Writes the training scenes and all held-out scenes, unless they exist."""
    wanted = {name: dict(crowding=CROWDING.get(name, 1.0), people=[2, 2]) for name in held_out(kind)}
    wanted = {"train": dict(crowding=TRAIN_CROWDING[kind], people=[1, 3]), **wanted}
    record = folder / "scenes.json"
    if record.exists() and json.loads(record.read_text("utf-8")) != wanted:
        raise UserError(f"{str(folder)!r} holds other scenes, see {record.name!r} in it. Use another --out.")
    write_json(record, wanted)
    for split, how in wanted.items():
        if (folder / f"annotations/person_keypoints_{split}.json").exists():
            continue
        count = {"train": NUM_TRAIN, VISIBLE: NUM_TO_CHOOSE}.get(split, NUM_HELD_OUT)
        if args.smoke:
            count = 24 if split == "train" else 8
        print(f"writing {count} scenes of {kind} for {split} …", flush=True)
        if kind == "figures":
            drawn.write_drawn(folder, count, split=split, **how)
        else:
            source = kpzoo.data.load(args.photos, "train" if split == "train" else "val")
            source = standing(source) if split in (*CROWDING, VISIBLE) else source
            composed.write_composed(source, folder, count, split=split, **how)


def held_out(kind: str) -> list[str]:
    """Returns the names of the held-out splits."""
    return [*CROWDING, VISIBLE, *([] if kind == "figures" else [ANY_POSTURE])]


def standing(data):
    """Returns the data without images in which the torso or the legs of a person are not upright."""
    persons, names = data.annotations.persons, list(data.skeleton.keypoints)
    if not {f"left_{part}" for pair in UPRIGHT.items() for part in (pair[0], pair[1][0])} <= set(names):
        raise UserError(f"{data.annotations.path} must name shoulders, hips and ankles. Received: {', '.join(names)}.")
    upright = (persons.visibility > 0).any(axis=1)
    for upper, (lower, most) in UPRIGHT.items():
        sides = np.array([[names.index(f"{side}_{part}") for side in ("left", "right")] for part in (upper, lower)])
        middles = persons.keypoints_image_xy[:, sides].mean(axis=2)  # (P, 2, 2): of the upper and the lower pair
        across, down = (middles[:, 1] - middles[:, 0]).T
        upright &= (persons.visibility[:, sides] > 0).all(axis=(1, 2))
        upright &= np.degrees(np.arctan2(np.abs(across), down)) < most
    return images_of(data, upright, "stand upright, ankles included")


def mostly_visible(data):
    """Returns the first images in which boxes overlap as in OCHuman and most keypoints of each person are visible."""
    persons = data.annotations.persons
    shown = (persons.visibility == 2).sum(axis=1) >= MIN_VISIBLE * (persons.visibility > 0).sum(axis=1)
    close = overlap(data.annotations)[persons.image_index] >= ONE_BOX_IOU
    data = images_of(data, shown & close, f"overlap and show {MIN_VISIBLE:.0%} of their keypoints")
    persons = data.annotations.persons
    first = np.unique(persons.image_ids)[:NUM_HELD_OUT]
    return replace(data, annotations=replace(data.annotations, persons=persons.take(np.isin(persons.image_ids, first))))


def images_of(data, chosen: np.ndarray, what: str):
    """Returns the data without the images that contain a person outside of `chosen`, a (P,) mask."""
    persons = data.annotations.persons
    kept = persons.take(~np.isin(persons.image_ids, persons.image_ids[~chosen]))
    if not len(kept.ids):
        raise UserError(f"{data.annotations.path} has no image in which all people {what}.")
    return replace(data, annotations=replace(data.annotations, persons=kept))


def train_part(part: str, data, folder: Path, args, weights: Path | None = None):
    """Trains the initial CPN ("start"), or one of `TWINS` from `weights`, and returns the model."""
    single, multi = ("cpn_tiny", "mipnet_cpn_tiny") if args.smoke else ("cpn_nano", "mipnet_nano")
    epochs = args.start_epochs if part == "start" else args.epochs
    steps = kpzoo.data.num_persons(data) // BATCH_SIZE

    def make_model():
        keras.utils.set_random_seed(args.seed)
        name = multi if part == "multi" else single
        model = kpzoo.build(name, image_hw=IMAGE_HW, skeleton=data.skeleton, weights=weights)
        # As in the quickstart: in trainings this short, OHKM gives a lower AP than L2.
        loss = CPNLoss(refine_loss="l2", flavour="pytorch")
        rate = keras.optimizers.schedules.CosineDecay(
            0.0, epochs * steps, warmup_target=LEARNING_RATES[part], warmup_steps=steps // 2
        )
        model.compile(training.AdamL2(rate), MultiInstanceLoss(loss) if part == "multi" else loss)
        return model

    return training.run(
        make_model,
        data,
        folder / part,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        augment=AUGMENT,
        seed=args.seed if part == "start" else args.seed + 1,
    )


def score(model, data) -> dict:
    """Returns AP with all ground-truth boxes, and AP by the share of boxes that box NMS keeps."""
    found = kpzoo.evaluate(model, data, kept_ious=evaluation.KEPT_IOUS, nms=POSE_NMS, batch_size=BATCH_SIZE)
    values = {name: value for name, value in found.values.items() if name in FIGURES or name.startswith("AP_instance")}
    return values | {"kept": found.details["kept"]}


def found_people(model, data) -> dict:
    """Returns how many people a predicted pose matches (OKS above 0.5), and which person each predicted pose matches.

    `own`: share of people matched by the first instance of their own box. `any`: share of people matched by any pose of
    the image. `answers`: by instance, the shares of boxes with a pose that matches the person of the box, another
    person, or none. `misled`: the same for the boxes with a first instance that matches another person.
    """
    persons, count = data.annotations.persons, model.preset.num_instances
    rows = np.flatnonzero((persons.visibility > 0).any(axis=1))
    image_ids, sigmas = persons.image_ids[rows], np.array(data.skeleton.sigmas)
    boxes, paths = persons.boxes_image_xywh[rows], data.image_paths(image_ids)
    poses = predict_boxes(model, paths, boxes, np.ones(len(rows)), batch_size=BATCH_SIZE).keypoints_xy
    likeness = np.zeros((len(rows), len(poses)))  # of each person to each pose of the same picture
    for place, row in enumerate(rows):
        labelled, truth = persons.visibility[row] > 0, persons.keypoints_image_xy[row]
        near = np.repeat(image_ids, count) == image_ids[place]
        likeness[place, near] = oks(truth[labelled], poses[near][:, labelled], persons.area[row], sigmas[labelled])
    answers = likeness.reshape(len(rows), len(rows), count).transpose(2, 1, 0)  # (N, P boxes, P people)
    matched = np.array([matches(answer) for answer in answers])  # (N, P)
    found = {"own": float((np.diag(answers[0]) > 0.5).mean()), "any": float((likeness.max(axis=1) > 0.5).mean())}
    for name, boxes in {"answers": matched, "misled": matched[:, matched[0] == "another"]}.items():
        counts = [{match: int((answer == match).sum()) for match in MATCHES} for answer in boxes]
        found[name] = [{match: count / max(boxes.shape[1], 1) for match, count in row.items()} for row in counts]
    return found


def matches(likeness: np.ndarray) -> np.ndarray:
    """Returns (P,) entries of `MATCHES`, from the (P, P) OKS of the pose of each box with each person."""
    own, best = np.diag(likeness), likeness.max(axis=1)
    return np.where(best <= 0.5, "none", np.where(own == best, "own", "another"))


def study(kind: str, args) -> dict:
    """Trains and scores the twins on one kind of scenes."""
    folder = args.out / kind
    make_scenes(kind, folder / "scenes", args)
    train = kpzoo.data.load(folder / "scenes", "train")
    scenes = {name: kpzoo.data.load(folder / "scenes", name) for name in held_out(kind)}
    if not args.smoke:
        scenes[VISIBLE] = mostly_visible(scenes[VISIBLE])
    crowded = scenes["ochuman"]
    start = None if kind == "figures" else args.weights
    found = {"seed": args.seed, "epochs": args.epochs, "start": "the given weights"}
    if start is None:
        found["start"] = f"the weights of a CPN trained on these scenes for {args.start_epochs} epochs"
        train_part("start", train, folder, args)
        start = folder / "start" / training.WEIGHTS
    found |= {"persons": kpzoo.data.num_persons(train), "steps_per_epoch": kpzoo.data.num_persons(train) // BATCH_SIZE}
    found["train_overlap"] = mean_overlap(train)
    found["overlap"] = {name: mean_overlap(data) for name, data in scenes.items()}
    found["hidden"] = {name: hidden_share(scenes[name].annotations.persons) for name in ("ochuman", VISIBLE)}
    for twin in TWINS:
        model = train_part(twin, train, folder, args, start)
        found[twin] = {name: score(model, data) for name, data in scenes.items()}
        found[twin] |= {"num_params": model.count_params()}
        found[twin]["found"] = {name: found_people(model, scenes[name]) for name in ("ochuman", VISIBLE)}
        sheets = {"heatmaps": evaluation.heatmap_sheet(model, crowded, 8, found=True)}
        sheets["poses"] = evaluation.prediction_sheet(model, crowded, 16)
        for name, sheet in sheets.items():
            print(images.write_image(folder / f"{twin}_{name}.png", sheet))
    return found


def mean_overlap(data) -> float:
    annotations = data.annotations
    return float(overlap(annotations)[np.unique(annotations.persons.image_index)].mean())


def hidden_share(persons) -> float:
    return float((persons.visibility == 1).sum() / (persons.visibility > 0).sum())


def page(results: dict) -> str:
    """Returns the tables and curves of the results as Markdown."""
    text = [PAGE_INTRODUCTION.format(**results).rstrip()]
    for kind, found in results["kinds"].items():
        text.append(f"\n## {TITLES[kind]}\n")
        text.append(PAGE_KIND.format(**found))
        text += ["| held-out scenes: mean overlap (IoU) | ground-truth boxes | without MIMBs | with MIMBs | gain |"]
        text += ["| :-- | :-- | --: | --: | --: |"]
        for name, iou in found["overlap"].items():
            scenes = f"{iou:.2f}{REMARKS.get(name, '')}"
            for label, ap in (("all", all_boxes), ("one per overlapping pair", one_box)):
                before, after = (100 * ap(found[twin][name]) for twin in TWINS)
                text.append(f"| {scenes} | {label} | {before:.1f} | {after:.1f} | {after - before:+.1f} |")
        text.append(PAGE_CROWDED.format(iou=ONE_BOX_IOU, least=MIN_VISIBLE))
        text += ["| most crowded scenes | all | people mostly visible |", "| :-- | --: | --: |"]
        columns = [details(found, name) for name in ("ochuman", VISIBLE)]
        text += [f"| {label} | {' | '.join(column[label] for column in columns)} |" for label in columns[0]]
        text.append("")
        text.append(f"![AP by overlap and by share of boxes kept](images/crowd_study_{kind}.svg)")
    return "\n".join([*text, PAGE_DISCUSSION])


def details(found: dict, scenes: str) -> dict[str, str]:
    """Returns the rows of the second table of a kind of scenes: label to text of the cell."""
    twins = [found[twin][scenes] for twin in TWINS]
    before, after = (found[twin]["found"][scenes] for twin in TWINS)

    def percent(*shares: float) -> str:
        return ", ".join(f"{100 * share:.0f} %" for share in shares)

    def gain(figure) -> str:
        return f"{100 * (figure(twins[1]) - figure(twins[0])):+.1f}"

    return {
        "occluded keypoints": percent(found["hidden"][scenes]),
        "AP gain, all boxes": gain(all_boxes),
        "AP50 gain, all boxes": gain(lambda row: row["AP50"]),
        "AR gain, all boxes": gain(lambda row: row["AR"]),
        "AP gain, one box per overlapping pair": gain(one_box),
        "AP loss from all boxes to one per pair: without, with MIMBs": ", ".join(
            f"{100 * (all_boxes(row) - one_box(row)):.1f}" for row in twins
        ),
        "AP with MIMBs: first instance only, second instance only": ", ".join(
            f"{100 * twins[1][f'AP_instance_{instance}']:.1f}" for instance in (0, 1)
        ),
        "predictions without MIMBs that match another person": percent(before["answers"][0]["another"]),
        "people missed by the first instance of their box: share matched by another pose, without, with MIMBs": percent(
            *((row["any"] - row["own"]) / max(1 - row["own"], 1e-9) for row in (before, after))
        ),
        "second instances that match another person, the person of the box, none": percent(
            *(after["answers"][1][match] for match in ("another", "own", "none"))
        ),
        "the same for boxes with a first instance that matches another person": percent(
            *(after["misled"][1][match] for match in ("another", "own", "none"))
        ),
    }


PAGE_INTRODUCTION = """\
# The effect of MIMBs on crowded images

Measured with `{command}`. The numbers are in
[results/crowd_study.json](results/crowd_study.json) ({versions}).

Two networks start from the weights of the same small CPN (128x96) and are trained on the same crops in the same order:
the CPN itself, and a CPN with MIMBs and N = 2. For boxes with a single person, the second instance is trained with the
target of the first. AP (x 100) is COCO's, with ground-truth boxes, flip test and, for both networks, OKS-NMS at 0.9. AP
with MIMBs includes both instances. "One per overlapping pair" keeps, of boxes that overlap with an IoU above 0.5, only
the box with the most visible person. The paper reports for HRNet-W48 on OCHuman: a gain of 9.1 AP with ground-truth
boxes, and a loss of 1 AP instead of 5 if only few confident boxes are used.
"""


PAGE_KIND = """\
Both networks start from {start}.
They are trained for {epochs} epochs of {steps_per_epoch} steps (seed {seed}) on {persons} persons.
The boxes of these persons have a mean overlap (IoU) of {train_overlap:.2f}.
"""


PAGE_CROWDED = """
The next table shows the sources of the gain. A pose matches the person with the highest OKS, if this OKS is above 0.5.
"People mostly visible" are scenes with boxes that overlap by {iou} or more, in which at least {least:.0%} of the
labelled keypoints of each person are visible.
"""


PAGE_DISCUSSION = """
## Why the gain with all boxes is smaller than in the paper

* **Occlusion.** Upright people who overlap occlude each other, most of all in drawn scenes. If few keypoints of a
  person are visible, second instances miss the person as the first instances do. In drawn scenes with mostly visible
  people, second instances match far more of the missed people: the gain with all boxes is more than twice as large, and
  the gain with one box per pair is larger still.
* **Coarse poses.** The gain in AP50, which requires an OKS of 0.5, is at least twice the gain in AP: small networks
  match the second person, but with imprecise keypoints.
* **Second instances are harder.** A second instance matches its person less often than a first instance does, and
  otherwise often repeats the person of the box. Repetitions are more frequent in photos than in drawn scenes: for
  photos, the initial weights come from a training on images of one person, for drawn scenes from a training of the same
  length on crowded scenes. After training on less crowded scenes, as on COCO, second instances have a lower AP.
* **Errors of the first instance remain.** If the first instance of a box matches another person, the second instance
  usually does, too. In drawn scenes with mostly visible people, the second instance matches the person of the box in
  about half of these boxes. In all other cases, only the box of the person in front can yield the missed person.
* **Scores and NMS have little effect.** AR, which depends little on scores, gains less than two points more than AP.
  The rows on matched people are computed before OKS-NMS.

## Limitations

The study uses one seed and networks of 0.2 GMACs at 128x96, trained for minutes. The paper's networks need 150 times as
many MACs and start from weights trained on COCO for days. Differences below one or two points of AP are noise. The
initial weights for photos, of a CPN trained on the same photos with one person each, are not published.
"""


def all_boxes(row: dict) -> float:
    return row["AP"]


def one_box(row: dict) -> float:
    return next(kept["AP"] for kept in row["kept"] if kept["max_iou"] == ONE_BOX_IOU)


def write_page(args) -> None:
    results = json.loads(args.results.read_text("utf-8"))
    for kind, found in results["kinds"].items():
        curves = {}
        for twin, title in TWINS.items():
            overlaps = [found["overlap"][name] for name in CROWDING]
            curves[f"{title}, by overlap"] = (overlaps, [found[twin][name]["AP"] for name in CROWDING])
            kept = found[twin]["ochuman"]["kept"]
            curves[f"{title}, by share of boxes kept"] = ([row["share"] for row in kept], [row["AP"] for row in kept])
        path = args.page.parent / "images" / f"crowd_study_{kind}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(curves, "overlap (IoU) of the boxes; share of boxes kept", "AP"), "utf-8")
    args.page.write_text(page(results), "utf-8")
    print(args.page)


def main(args) -> None:
    prepare_streams()
    if args.page:
        return write_page(args)
    kinds = [kind for kind in TITLES if kind == "figures" or args.photos]
    if args.smoke:
        args.start_epochs = args.epochs = 1
        args.results = args.out / "results.json"
    else:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    results = json.loads(args.results.read_text("utf-8")) if args.results.exists() else {"kinds": {}}
    given = "".join(f" --{name} {name.upper()}" for name in ("photos", "weights") if getattr(args, name))
    results |= {
        "command": f"python recipes/crowd_study.py{given}",
        "versions": f"kpzoo {kpzoo.__version__}, keras {keras.__version__}",
    }
    for kind in kinds:
        if args.only in (None, kind):
            results["kinds"][kind] = study(kind, args)
            write_json(args.results, results, indent=1)
    print(page(results))


if __name__ == "__main__":
    main(parser.parse_args())
