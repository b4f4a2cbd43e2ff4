"""Person detectors, trained on photos with person boxes.

    python recipes/person_fpn.py person_fpn_lite0 --sources sources.json --weights lite0.pth --out runs/lite0
    python recipes/person_fpn.py person_fpn_lite0 … --until 19:35    # ends at this time

`sources.json` lists the training data: [{"annotations": "a.json", "images": "folder", "share": 2}, …]. The annotations
are COCO files. `iscrowd` annotations are ignored regions; `score` is the weight of a box, by default 1.

The learning-rate schedule has a warm-up, a constant rate, and a linear decay to zero over the last quarter, at a larger
input size. The saved weights are exponential moving averages. An interrupted run is resumed from its last checkpoint;
without `--until`, with the same result as an uninterrupted run.
"""

import argparse
import json
import os
import re
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import keras
import tensorflow as tf

import kpzoo
from kpzoo.boxes import PersonBoxLoss
from kpzoo.data.box_batches import BoxBatches, load_photos
from kpzoo.training.averages import WeightAverages
from kpzoo.weights import load_weights

# Layers that keep their ImageNet weights: all up to stride 4, and the depthwise convolutions, which have slow gradients
# on a CPU. A step on one core takes 2.4 s if all layers are trained, 1.7 s without those up to stride 4, and 1.35 s
# without both groups.
FROZEN = re.compile(r"stem|block[012]_|block\d+_depthwise_conv")
WARMUP = 100  # steps
WEIGHTS = "model.safetensors"  # the moving averages
WEIGHT_DECAY = 0.05  # not applied to biases and batch norms
CLIP_NORM = 20.0
EMA = 0.999
DECAY_SHARE = 0.3  # share of the time for the decay, with `--until`
MINUTES_BETWEEN_CHECKPOINTS = 8
LOG_EVERY = 50


@dataclass(frozen=True)
class Run:
    """A row of the table.

    Args:
        model: Model name.
        image_hw: Input size during the constant learning rate.
        final_hw: Input size during the decay.
        batch_size: Images per step.
        learning_rate: Constant learning rate.
        steps: Number of steps.
        decay_from: First step of the decay.
        mosaic: Share of images that are mosaics of four photos: before the decay, during the decay.
    """

    model: str
    image_hw: tuple[int, int]
    final_hw: tuple[int, int]
    batch_size: int
    learning_rate: float
    steps: int
    decay_from: int
    mosaic: tuple[float, float]


# fmt: off
RUNS = [
    #   model               constant    decay       batch  rate  steps   decay   mosaic
    Run("person_fpn_lite0", (320, 320), (416, 416), 16,   1e-3, 12_000, 9_000,  (0.5, 0.25)),
    Run("person_fpn_res50", (416, 416), (512, 512), 16,   1e-4, 20_000, 15_000, (0.5, 0.25)),
    Run("person_fpn_tiny",  (64, 64),   (64, 64),   2,    1e-3, 4,      3,      (0.5, 0.25)),
]
# fmt: on


class Training:
    """The part of a run with one of the two input sizes, resumed from the last checkpoint."""

    def __init__(self, run: Run, args, state: dict):
        self.run, self.args, self.state = run, args, state
        self.decays = state["step"] >= state["decay_from"]
        self.image_hw = run.final_hw if self.decays else run.image_hw
        self.model = kpzoo.build(run.model, image_hw=self.image_hw)
        if args.weights and not state["step"]:
            print(load_weights(self.model, args.weights), flush=True)
        for layer in self.model.layers:
            if FROZEN.match(layer.name):
                layer.trainable = False
        optimizer = keras.optimizers.AdamW(run.learning_rate, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP_NORM)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.model.compile(optimizer, PersonBoxLoss(self.image_hw))
        optimizer.build(self.model.trainable_variables)
        self.model.averages = WeightAverages(self.model, EMA)
        if state["step"]:
            self.model.load_weights(args.out / f"step-{state['step']}.weights.h5")
        self.pace = deque(maxlen=20)  # (step, time) about every 25 steps

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step."""
        start, stop = self.state["decay_from"], self.state["steps"]
        left = (stop - step) / max(stop - start, 1) if step >= start else 1.0
        return self.run.learning_rate * max(0.0, min(1.0, left, (step + 1) / WARMUP))

    def keep_time(self, step: int) -> None:
        """Sets the first and the last step of the decay from the remaining time and the measured steps per second."""
        self.pace.append((step, time.time()))
        (first, since), (last, now) = self.pace[0], self.pace[-1]
        if self.args.until is None or last - first < 50:
            return
        state, left = self.state, self.args.until - now
        per_second = (last - first) / (now - since)
        if self.decays:
            state["steps"] = step + max(1, int(left * per_second))
        elif left < DECAY_SHARE * (self.args.until - state["begun"]):
            ratio = (self.run.image_hw[0] / self.run.final_hw[0]) ** 2  # steps per second, larger over smaller input
            state["decay_from"], state["steps"] = step, step + max(1, int(left * per_second * ratio))

    def train(self) -> dict:
        """Trains until the decay begins or until the last step, and returns the state."""
        state, model = self.state, self.model
        sources = json.loads(self.args.sources.read_text("utf-8"))
        photos = [(load_photos(row["annotations"], row["images"]), row["share"]) for row in sources]
        print([(row["annotations"], len(found), share) for row, (found, share) in zip(sources, photos, strict=True)])
        mosaic = self.run.mosaic[self.decays]
        batches = BoxBatches(photos, self.image_hw, self.run.batch_size, mosaic, seed=self.args.seed)
        step_function = tf.function(model.train_step, autograph=False)
        saved = time.time()
        for batch in batches.dataset(state["step"], 1 << 31):
            step = state["step"]
            if step >= state["steps"] or (not self.decays and step >= state["decay_from"]):
                break
            model.optimizer.learning_rate.assign(self.rate(step))
            logs = step_function(batch)
            state["step"] += 1
            if state["step"] % 25 == 0:
                self.keep_time(state["step"])
            if state["step"] % LOG_EVERY == 0:
                self.log(logs)
            if time.time() - saved > 60 * MINUTES_BETWEEN_CHECKPOINTS:
                self.save()
                saved = time.time()
        self.save()
        return state

    def log(self, logs) -> None:
        values = {name: round(float(value), 4) for name, value in logs.items()}
        (first, since), (last, now) = self.pace[0], self.pace[-1]
        pace = (last - first) * self.run.batch_size / max(now - since, 1e-9)
        row = {"time": f"{datetime.now():%H:%M:%S}", "step": self.state["step"], **values}
        row |= {"rate": round(self.rate(self.state["step"]), 7), "pictures_per_s": round(pace, 2)}
        row |= {"steps": self.state["steps"], "size": self.image_hw[0]}
        with (self.args.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
        self.model.reset_metrics()

    def save(self) -> None:
        """Writes a checkpoint atomically and keeps the last two."""
        out, step = self.args.out, self.state["step"]
        self.model.save_weights(out / "part.weights.h5", overwrite=True)
        os.replace(out / "part.weights.h5", out / f"step-{step}.weights.h5")
        (out / "part.json").write_text(json.dumps(self.state), "utf-8")
        os.replace(out / "part.json", out / "state.json")
        with self.model.averages.in_use():
            kpzoo.save_weights(self.model, out / WEIGHTS)
        for old in sorted(out.glob("step-*.weights.h5"), key=lambda path: path.stat().st_mtime)[:-2]:
            old.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=[run.model for run in RUNS])
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--until", help="end time of the run, HH:MM today")
    args = parser.parse_args()
    if args.until:
        hour, minute = map(int, args.until.split(":"))
        until = datetime.now().replace(hour=hour, minute=minute, second=0)
        args.until = (until + timedelta(days=until < datetime.now())).timestamp()
    run = next(row for row in RUNS if row.model == args.run)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "state.json"
    state = {"step": 0, "decay_from": run.decay_from, "steps": run.steps, "begun": time.time()}
    if args.until:
        state["decay_from"] = state["steps"] = 1 << 30
    if path.exists():
        state |= json.loads(path.read_text("utf-8"))
    while state["step"] < state["steps"]:
        keras.utils.clear_session()
        state = Training(run, args, state).train()


if __name__ == "__main__":
    main()
