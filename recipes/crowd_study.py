"""The effect of MIMBs on crowded images: two networks that differ only in the MIMBs, on drawn and composed scenes.

    python recipes/crowd_study.py --out runs/crowd_study --photos ~/lspet    # about two hours on two CPU cores
    python recipes/crowd_study.py --page docs/crowd_study.md                 # rewrites the page from the results file

A small CPN is trained further twice, from the same weights, for the same number of steps on the same crops: unchanged,
and with MIMBs and a second instance, as MIPNet starts from its baseline (arXiv:2101.11223). The initial weights are
those of a CPN trained on the same scenes or, for photos, those in `--weights`.
Both are evaluated on held-out scenes, from people who do not overlap to people who overlap as in OCHuman: with every
annotated box, and with only the best visible box of each overlapping group. `--photos` is any folder in COCO format of
well annotated people, with the splits train and val; without it, only drawn scenes are studied. Training uses all
people of the photos. The held-out scenes show people who stand upright, except in one more set, which shows people in
any position. Another set shows people who hide little of each other. An interrupted study is resumed.
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
from kpzoo.files import write_json
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
parser.add_argument("--epochs", type=int, default=14, help="epochs of each network after it")
parser.add_argument("--seed", type=int, default=0, help="random seed of weights, order and augmentation")
parser.add_argument("--results", type=Path, default=Path("docs/results/crowd_study.json"), help="results file")
parser.add_argument("--page", type=Path, help="only write this page from the results file")
parser.add_argument("--smoke", action="store_true", help="train tiny models for a few steps, as a test")

IMAGE_HW = (128, 96)
BATCH_SIZE = 16
LEARNING_RATES = {"start": 5e-3, "single": 3e-3, "multi": 3e-3}
AUGMENT = augment.Augment(scale=(0.85, 1.2), rotation=20.0, rotation_probability=0.6, flip_probability=0.5)
# What is learned: crowds a little less dense than the densest that are scored; `photos_light` learns lighter ones, as
# MIPNet learned on COCO what it showed on OCHuman. A third of the scenes shows one person, who is nobody's neighbour.
TRAIN_CROWDING = {"figures": 0.8, "photos": 0.8, "photos_light": 0.4}
CROWDING = {"apart": 0.0, "near": 0.25, "touching": 0.5, "close": 0.75, "ochuman": 1.0}
SEEN = "seen"  # of scenes as "ochuman" those that overlap by 0.5 or more, but where everybody shows most keypoints
ANYBODY = "anybody"  # as crowded as "ochuman", of people in any position
NUM_TRAIN, NUM_HELD_OUT, NUM_TO_CHOOSE = 2500, 300, 2400
REMARKS = {SEEN: ", everybody well seen", ANYBODY: ", not only who stands"}
LEAST_SEEN = 0.6  # of a person's labelled keypoints
UPRIGHT = {"shoulder": ("hip", 40.0), "hip": ("ankle", 50.0)}  # degrees from the vertical, of who stands
FIGURES = ("AP", "AP50", "AR", "PCK@0.2")
ONE_BOX_IOU = 0.5
TWINS = {"single": "without MIMBs", "multi": "with MIMBs"}
WHOSE = ("own", "another", "nobody")
TITLES = {
    "figures": "Drawn figures",
    "photos": "People cut out of photos",
    "photos_light": "People cut out of photos, learned in lighter crowds",
}


def make_scenes(kind: str, folder: Path, args) -> None:
    """Makes the training scenes and the held-out ones of every crowding, unless they are there."""
    wanted = {name: dict(crowding=CROWDING.get(name, 1.0), people=[2, 2]) for name in held_out(kind)}
    wanted = {"train": dict(crowding=TRAIN_CROWDING[kind], people=[1, 3]), **wanted}
    record = folder / "scenes.json"
    if record.exists() and json.loads(record.read_text()) != wanted:
        raise UserError(f"{str(folder)!r} holds other scenes, see {record.name!r} in it. Use another --out.")
    write_json(record, wanted)
    for split, how in wanted.items():
        if (folder / f"annotations/person_keypoints_{split}.json").exists():
            continue
        count = {"train": NUM_TRAIN, SEEN: NUM_TO_CHOOSE}.get(split, NUM_HELD_OUT)
        if args.smoke:
            count = 24 if split == "train" else 8
        print(f"making {count} scenes of {kind} for {split} …", flush=True)
        if kind == "figures":
            drawn.write_drawn(folder, count, split=split, **how)
        else:
            source = kpzoo.data.load(args.photos, "train" if split == "train" else "val")
            source = standing(source) if split in (*CROWDING, SEEN) else source
            composed.write_composed(source, folder, count, split=split, **how)


def held_out(kind: str) -> list[str]:
    """Returns the names of the held-out splits."""
    return [*CROWDING, SEEN, *([] if kind == "figures" else [ANYBODY])]


def standing(data):
    """Returns the data without the photos of anybody who does not stand upright, with torso and legs."""
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
    return of_all(data, upright, "stand upright, ankles included")


def well_seen(data):
    """Returns the data with only the first pictures whose people overlap as in OCHuman and show most keypoints."""
    persons = data.annotations.persons
    shown = (persons.visibility == 2).sum(axis=1) >= LEAST_SEEN * (persons.visibility > 0).sum(axis=1)
    close = overlap(data.annotations)[persons.image_index] >= ONE_BOX_IOU
    data = of_all(data, shown & close, f"overlap and show {LEAST_SEEN:.0%} of their keypoints")
    persons = data.annotations.persons
    first = np.unique(persons.image_ids)[:NUM_HELD_OUT]
    return replace(data, annotations=replace(data.annotations, persons=persons.take(np.isin(persons.image_ids, first))))


def of_all(data, chosen: np.ndarray, what: str):
    """Returns the data with the people of those pictures alone of whom all are chosen."""
    persons = data.annotations.persons
    kept = persons.take(~np.isin(persons.image_ids, persons.image_ids[~chosen]))
    if not len(kept.ids):
        raise UserError(f"{data.annotations.path} has no picture of people who all {what}.")
    return replace(data, annotations=replace(data.annotations, persons=kept))


def train_part(part: str, data, folder: Path, args, weights: Path | None = None):
    """Trains the common start, or one of the twins from such weights, and returns the model."""
    single, multi = ("cpn_tiny", "mipnet_cpn_tiny") if args.smoke else ("cpn_nano", "mipnet_nano")
    epochs = args.start_epochs if part == "start" else args.epochs
    steps = kpzoo.data.num_persons(data) // BATCH_SIZE

    def make_model():
        keras.utils.set_random_seed(args.seed)
        name = multi if part == "multi" else single
        model = kpzoo.build(name, image_hw=IMAGE_HW, skeleton=data.skeleton, weights=weights)
        # As in the quickstart: OHKM costs more than it brings in trainings as short as this.
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
    """Returns AP with all annotated boxes, and AP against the share of boxes that is kept."""
    found = kpzoo.evaluate(model, data, kept_ious=evaluation.KEPT_IOUS, nms=POSE_NMS, batch_size=BATCH_SIZE)
    values = {name: value for name, value in found.values.items() if name in FIGURES or name.startswith("AP_instance")}
    return values | {"kept": found.details["kept"]}


def found_people(model, data) -> dict:
    """Returns of how many people a pose is found (OKS above 0.5), and whose poses the answers are.

    `own`: share of people whom the first answer to their own box finds; `any`: whom any pose of the picture finds.
    `answers`: shares of the boxes, by instance, whose answer is the pose of the box's own person, of another, or of
    nobody. `misled`: the same of those boxes alone whose first answer is another's.
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
    meant = np.array([whose(answer) for answer in answers])  # (N, P)
    found = {"own": float((np.diag(answers[0]) > 0.5).mean()), "any": float((likeness.max(axis=1) > 0.5).mean())}
    for name, boxes in {"answers": meant, "misled": meant[:, meant[0] == "another"]}.items():
        counts = [{who: int((answer == who).sum()) for who in WHOSE} for answer in boxes]
        found[name] = [{who: count / max(boxes.shape[1], 1) for who, count in row.items()} for row in counts]
    return found


def whose(likeness: np.ndarray) -> np.ndarray:
    """Returns for each answer whose pose it is, one of `WHOSE`; takes (P, P) OKS of each box's answer to people."""
    own, best = np.diag(likeness), likeness.max(axis=1)
    return np.where(best <= 0.5, "nobody", np.where(own == best, "own", "another"))


def study(kind: str, args) -> dict:
    """Trains and scores the twins on one kind of scenes."""
    folder = args.out / kind
    make_scenes(kind, folder / "scenes", args)
    train = kpzoo.data.load(folder / "scenes", "train")
    scenes = {name: kpzoo.data.load(folder / "scenes", name) for name in held_out(kind)}
    if not args.smoke:
        scenes[SEEN] = well_seen(scenes[SEEN])
    crowded = scenes["ochuman"]
    start = None if kind == "figures" else args.weights
    found = {"seed": args.seed, "epochs": args.epochs, "start": "the given weights"}
    if start is None:
        found["start"] = f"a CPN that learned these scenes for {args.start_epochs} epochs"
        train_part("start", train, folder, args)
        start = folder / "start" / training.WEIGHTS
    found |= {"persons": kpzoo.data.num_persons(train), "steps_per_epoch": kpzoo.data.num_persons(train) // BATCH_SIZE}
    found["train_overlap"] = mean_overlap(train)
    found["overlap"] = {name: mean_overlap(data) for name, data in scenes.items()}
    found["hidden"] = {name: hidden_share(scenes[name].annotations.persons) for name in ("ochuman", SEEN)}
    for twin in TWINS:
        model = train_part(twin, train, folder, args, start)
        found[twin] = {name: score(model, data) for name, data in scenes.items()}
        found[twin] |= {"num_params": model.count_params()}
        found[twin]["found"] = {name: found_people(model, scenes[name]) for name in ("ochuman", SEEN)}
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
    text = [PAGE_INTRODUCTION.format(**results)]
    for kind, found in results["kinds"].items():
        text.append(f"\n## {TITLES[kind]}\n")
        text.append(PAGE_KIND.format(**found))
        text += ["| held-out scenes: mean overlap (IoU) | boxes | without MIMBs | with MIMBs | gain |"]
        text += ["| :-- | :-- | --: | --: | --: |"]
        for name, iou in found["overlap"].items():
            who = f"{iou:.2f}{REMARKS.get(name, '')}"
            for label, ap in (("all annotated", all_boxes), ("one of each overlapping pair", one_box)):
                before, after = (100 * ap(found[twin][name]) for twin in TWINS)
                text.append(f"| {who} | {label} | {before:.1f} | {after:.1f} | {after - before:+.1f} |")
        text.append(PAGE_CROWDED.format(iou=ONE_BOX_IOU, least=LEAST_SEEN))
        text += ["| the most crowded scenes | all | everybody well seen |", "| :-- | --: | --: |"]
        columns = [reasons(found, name) for name in ("ochuman", SEEN)]
        text += [f"| {label} | {' | '.join(column[label] for column in columns)} |" for label in columns[0]]
        text.append("")
        text.append(f"![AP against crowding and against the boxes kept](images/crowd_study_{kind}.svg)")
    return "\n".join([*text, PAGE_CARE])


def reasons(found: dict, scenes: str) -> dict[str, str]:
    """Returns what tells where a gain comes from, and what limits it, by its label."""
    twins = [found[twin][scenes] for twin in TWINS]
    before, after = (found[twin]["found"][scenes] for twin in TWINS)

    def percent(*shares: float) -> str:
        return ", ".join(f"{100 * share:.0f} %" for share in shares)

    def gain(figure) -> str:
        return f"{100 * (figure(twins[1]) - figure(twins[0])):+.1f}"

    return {
        "keypoints that are hidden": percent(found["hidden"][scenes]),
        "AP gained, all boxes": gain(all_boxes),
        "AP50 gained, all boxes": gain(lambda row: row["AP50"]),
        "AR gained, all boxes": gain(lambda row: row["AR"]),
        "AP gained, one box of each overlapping pair": gain(one_box),
        "AP lost with one box: without, with MIMBs": ", ".join(
            f"{100 * (all_boxes(row) - one_box(row)):.1f}" for row in twins
        ),
        "AP of the first, of the second answers alone": ", ".join(
            f"{100 * twins[1][f'AP_instance_{instance}']:.1f}" for instance in (0, 1)
        ),
        "answers without MIMBs that are somebody else's pose": percent(before["answers"][0]["another"]),
        "people whom their own box does not find, but any pose of the picture: without, with MIMBs": percent(
            *((row["any"] - row["own"]) / max(1 - row["own"], 1e-9) for row in (before, after))
        ),
        "second answers that are the other person's, the box's person's again, nobody's": percent(
            *(after["answers"][1][who] for who in ("another", "own", "nobody"))
        ),
        "the same where the first answer is somebody else's": percent(
            *(after["misled"][1][who] for who in ("another", "own", "nobody"))
        ),
    }


PAGE_INTRODUCTION = """\
# What MIMBs are worth in a crowd

Made by `{command}`; the numbers are in [results/crowd_study.json](results/crowd_study.json) ({versions}).

From the weights of one small CPN (128x96) two networks go on, on the same crops in the same order: one as it is, one
with MIMBs and N = 2, its missing instances repeating the first. AP (x 100) is COCO's, with flip test and annotated
boxes, after OKS-NMS at 0.9 for both; with MIMBs, of both instances together. "One of each overlapping pair" keeps, of
boxes that overlap by more than an IoU of 0.5, the one whose person is best visible. The paper reports, for HRNet-W48 on
OCHuman: 9.1 AP gained with annotated boxes, and 1 AP lost instead of 5 when few confident boxes are used.
"""


PAGE_KIND = """\
The twins start from {start} and go on for {epochs} epochs of {steps_per_epoch} steps (seed {seed}). Of the {persons}
persons that they learn, the boxes overlap by an IoU of {train_overlap:.2f} on average.
"""


PAGE_CROWDED = """
Where the gain comes from. A pose is somebody's from an OKS of 0.5 on, and the one's whom it fits best. "Everybody well
seen" are such scenes of boxes that overlap by {iou} or more, where everybody shows {least:.0%} of the keypoints, or
more.
"""


PAGE_CARE = """
## Why the gain with all boxes is smaller than the paper's

* **Hidden people.** People who stand upright behind each other hide each other, figures above all. Whom the own box
  misses since hardly anything shows, second answers miss as well. Where everybody is well seen they find far more of
  those figures: the gain with all boxes is several times as large, and larger still with one box of each pair.
* **Rough poses.** AP50, which asks for an OKS of 0.5, gains at least twice what AP gains: small networks find somebody,
  but not to the pixel.
* **Second answers are the harder ones.** They find their person less often than first answers do, and repeat the box's
  person where they are unsure, of photos more than of figures: there the twins start from a network that has learned
  people alone, of figures from one that has learned the crowds as long again. Lighter crowds to learn from, as on COCO,
  teach them less.
* **A misread box mostly stays so.** Where the first answer is somebody else's pose, the second mostly is, too; of well
  seen figures it is the box's person in about half of these boxes. Who is missed otherwise must be found from the box
  of whoever stands in front.
* Scores hide less than two points: AR, which hardly depends on them, gains at most so much more than AP. OKS-NMS hides
  nobody whom "any pose" tells, which counts before it.

## To be read with care

One seed, and networks of 0.2 GMACs at 128x96 after a training of minutes: the paper's do 150 times the work and start
from weights that were trained on COCO for days. What is below a point or two of AP is noise here. The weights given for
photos are those of `cpn_nano_lspet_128x128.py`, as trained; those that ship are the same, with kernels in float16.
"""


def all_boxes(row: dict) -> float:
    return row["AP"]


def one_box(row: dict) -> float:
    return next(kept["AP"] for kept in row["kept"] if kept["max_iou"] == ONE_BOX_IOU)


def write_page(args) -> None:
    results = json.loads(args.results.read_text())
    for kind, found in results["kinds"].items():
        curves = {}
        for twin, title in TWINS.items():
            overlaps = [found["overlap"][name] for name in CROWDING]
            curves[f"{title}, over overlap"] = (overlaps, [found[twin][name]["AP"] for name in CROWDING])
            kept = found[twin]["ochuman"]["kept"]
            curves[f"{title}, over share of boxes kept"] = ([row["share"] for row in kept], [row["AP"] for row in kept])
        path = args.page.parent / "images" / f"crowd_study_{kind}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(curves, "overlap (IoU) of the boxes; share of boxes kept", "AP"))
    args.page.write_text(page(results))
    print(args.page)


def main(args) -> None:
    if args.page:
        return write_page(args)
    kinds = [kind for kind in TITLES if kind == "figures" or args.photos]
    if args.smoke:
        args.start_epochs = args.epochs = 1
        args.results = args.out / "results.json"
    else:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    results = json.loads(args.results.read_text()) if args.results.exists() else {"kinds": {}}
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
