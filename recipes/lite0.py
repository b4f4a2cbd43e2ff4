"""CPN and MIPNet with an EfficientNet-Lite0 trunk and COCO's 17 keypoints, trained on several data sets.

    python recipes/lite0.py cpn_lite0 --sources sources.json --val val.json --out runs/cpn_lite0
    python recipes/lite0.py mipnet_lite0 --sources sources.json --val val.json --out runs/mipnet_lite0 \
        --weights runs/cpn_lite0/3_256x192/model.weights.h5

`sources.json` lists the training data: [{"annotations": "a.json", "images": "folder", "share": 2}, …]. The annotations
are COCO files, also with other keypoints than COCO's: those that they share by name are learned. `share` is the share
of the crops. `visibility` is a visibility rule, see `kpzoo.data.make_dataset`; it should be "labelled" for labels of a
machine, which leave out keypoints that are visible. `"crowd": true` marks the data whose people are composed to crowds,
for a MIPNet. `val.json` is one such entry.

A run has stages with growing crops, each in a folder of its own: small crops cost little, and most of what they teach
holds for large ones, if a stage's crops are larger by no more than a third, the range of scales in the augmentation.
Every stage starts from the averaged weights of the stage before, the first one from `--weights`,
by default from the trunk of the shipped person detector. An interrupted run is resumed.
"""

import argparse
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

import kpzoo
from kpzoo import evaluation, training
from kpzoo.data import Augment
from kpzoo.errors import UserError
from kpzoo.files import write_json
from kpzoo.losses import CPNLoss, MultiInstanceLoss
from kpzoo.scenes import Crowd
from kpzoo.training import WEIGHTS

# Layers that keep the weights of the trunk: all up to stride 4, and the depthwise convolutions. On a CPU a step takes a
# quarter less time without them.
FROZEN = re.compile(r"stem|block[012]_|block\d+_depthwise_conv")
DETECTOR = "person_fpn_lite0"
AUGMENT = Augment((0.75, 1.3), 35.0, 0.5, 0.5, brightness=(0.8, 1.2))  # milder than that of CPN
BATCH_SIZE = 32
STEPS_PER_EPOCH = 500
WARMUP = 200  # steps of each stage
WEIGHT_DECAY = 0.05  # not applied to biases and batch norms
EMA = 0.999


@dataclass(frozen=True)
class Stage:
    """A part of a run with one size of the crops.

    Args:
        image_hw: (height, width) of the crops.
        epochs: Number of epochs of `STEPS_PER_EPOCH` steps.
        learning_rate: Learning rate after the warm-up.
        decays: Whether the learning rate falls to zero, by a cosine.
        crowd: Share of the crops that show composed crowds.
    """

    image_hw: tuple[int, int]
    epochs: int
    learning_rate: float
    decays: bool = False
    crowd: float = 0.0


# fmt: off
RUNS = {
    "cpn_lite0": [
        #     crops       epochs  rate  decays
        Stage((128, 96),  20,     1e-3),
        Stage((160, 128), 10,     1e-3),
        Stage((192, 160), 10,     1e-3, True),
    ],
    "mipnet_lite0": [
        #     crops       epochs  rate  decays crowds
        Stage((192, 160), 10,     5e-4, False, 0.5),
        Stage((256, 192), 10,     5e-4, True,  0.5),
    ],
}
# fmt: on


def start(model, weights: Path | None) -> None:
    """Loads initial weights: those of a file, or the trunk of the shipped person detector."""
    if weights:
        print(kpzoo.load_weights(model, weights), flush=True)
        return
    detector = kpzoo.build(DETECTOR, weights=kpzoo.info(DETECTOR).weights[-1])
    trunk = {layer.name: layer for layer in detector.layers if re.match(r"stem|block\d+_", layer.name)}
    for layer in model.layers:
        if layer.name in trunk:
            layer.set_weights(trunk[layer.name].get_weights())


def compiled(name: str, stage: Stage, weights: Path | None, seed: int):
    """Returns the model of a stage, with its initial weights, optimizer and loss."""
    keras.utils.set_random_seed(seed)
    model = kpzoo.build(name, image_hw=stage.image_hw)
    start(model, weights)
    for layer in model.layers:
        if FROZEN.match(layer.name):
            layer.trainable = False
    rate = stage.learning_rate
    if stage.decays:
        rate = keras.optimizers.schedules.CosineDecay(rate, stage.epochs * STEPS_PER_EPOCH)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = CPNLoss(refine_loss="l2", flavour="pytorch")
    model.compile(optimizer, MultiInstanceLoss(loss) if model.preset.num_instances > 1 else loss)
    return model


def main(args: argparse.Namespace) -> None:
    def load(row):
        return kpzoo.data.load(annotations=row["annotations"], images=row["images"])

    rows = json.loads(args.sources.read_text("utf-8"))
    data, val = [(load(row), row["share"]) for row in rows], load(json.loads(args.val.read_text("utf-8")))
    crowded = next((part for row, (part, _) in zip(rows, data, strict=True) if row.get("crowd")), None)
    if crowded is None and any(stage.crowd for stage in RUNS[args.name]):
        raise UserError(f'Run {args.name} composes crowds: mark one of {args.sources} with "crowd": true.')
    weights, done = args.weights, []
    for number, stage in enumerate(RUNS[args.name], 1):
        folder = args.out / "{}_{}x{}".format(number, *stage.image_hw)
        if not (folder / WEIGHTS).exists():
            model = training.run(
                lambda stage=stage, weights=weights: compiled(args.name, stage, weights, args.seed),
                data,
                folder,
                epochs=stage.epochs,
                steps_per_epoch=STEPS_PER_EPOCH,
                batch_size=BATCH_SIZE,
                augment=AUGMENT,
                seed=args.seed + number,
                visibility_rule=[row.get("visibility") for row in rows],
                crowd=Crowd(crowded, stage.crowd, folder=args.out / "cutouts") if stage.crowd else None,
                ema=EMA,
                warmup=WARMUP,
                validate=lambda model: kpzoo.evaluate(model, val, flip=False).values,
                validate_every=4,
                draw=lambda model: evaluation.progress_sheet(model, val),
            )
            print(stage, kpzoo.evaluate(model, val, results_path=folder / "results.json"), flush=True)
            keras.utils.clear_session()
        weights = folder / WEIGHTS
        done.append({"steps": stage.epochs * STEPS_PER_EPOCH, **asdict(stage)})
        write_json(args.out / "stages.json", done, indent=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RUNS)
    parser.add_argument("--sources", type=Path, required=True, help="JSON file of the training data")
    parser.add_argument("--val", type=Path, required=True, help="JSON file of the validation data")
    parser.add_argument("--weights", type=Path, help="initial weights (default: the trunk of the person detector)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, default=0, help="random seed of weights, order and augmentation")
    main(parser.parse_args())
