"""The recipe of person detectors: a stopped run goes on as if it had not stopped, and the clock can end it."""

import argparse
import importlib.util
import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

import kpzoo
from kpzoo.data.box_batches import BoxBatches

PAGE = Path(__file__).resolve().parents[1] / "recipes" / "person_fpn.py"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("person_fpn_page", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    cv2.imwrite(str(folder / "a.png"), np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "bbox": [10, 5, 30, 50], "iscrowd": 0}],
    }
    (folder / "a.json").write_text(json.dumps(content))
    rows = [{"annotations": str(folder / "a.json"), "images": str(folder), "share": 1.0}]
    (folder / "sources.json").write_text(json.dumps(rows))
    return folder / "sources.json"


def train(page, run, sources, out, until=None):
    """Trains to the end as the page's `main` does."""
    args = argparse.Namespace(sources=sources, weights=None, out=out, seed=0, until=until)
    out.mkdir(exist_ok=True)
    state = {"step": 0, "decay_from": run.decay_from, "steps": run.steps, "begun": time.time()}
    while state["step"] < state["steps"]:
        keras.utils.set_random_seed(0)
        state = page.Training(run, args, state).train()
    return state


def test_a_stopped_run_goes_on_exactly(page, sources, tmp_path, monkeypatch):
    run = replace(next(run for run in page.RUNS if run.model == "person_fpn_tiny"), steps=4, decay_from=3)
    monkeypatch.setattr(page, "WARMUP", 1)  # steps large enough to tell a lost optimizer
    train(page, run, sources, tmp_path / "whole")
    whole_stream = BoxBatches.dataset
    monkeypatch.setattr(BoxBatches, "dataset", lambda self, start, stop: whole_stream(self, start, start + 1))
    train(page, run, sources, tmp_path / "stopped")  # after every step
    found = []
    for name in ("whole", "stopped"):
        [path] = (tmp_path / name).glob("step-4.weights.h5")
        model = kpzoo.build("person_fpn_tiny", image_hw=run.final_hw)
        model.load_weights(path)
        averages = kpzoo.build("person_fpn_tiny", image_hw=run.final_hw, weights=tmp_path / name / page.WEIGHTS)
        found.append([*model.get_weights(), *averages.get_weights()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_rates_rise_stay_and_fall(page, sources, tmp_path):
    run = next(run for run in page.RUNS if run.model == "person_fpn_lite0")
    training = page.Training.__new__(page.Training)
    training.run, training.state = run, {"decay_from": run.decay_from, "steps": run.steps}
    rates = [training.rate(step) for step in range(run.steps + 1)]
    assert rates[0] < rates[page.WARMUP] == run.learning_rate == rates[run.decay_from]
    assert (np.diff(rates[run.decay_from :]) < 0).all() and rates[-1] == 0.0


def test_the_clock_starts_the_decay_and_ends_the_run(page):
    """With a step each second the decay takes the last share of the time, and its end stays at the clock's."""
    run = replace(next(run for run in page.RUNS if run.model == "person_fpn_lite0"), final_hw=(320, 320))
    training = page.Training.__new__(page.Training)
    training.run, training.args = run, argparse.Namespace(until=10_000.0)
    training.state = {"step": 0, "decay_from": 1 << 30, "steps": 1 << 30, "begun": 0.0}
    training.decays, training.pace = False, page.deque(maxlen=20)
    for step in range(0, 10_000, 25):
        page.time.time, kept = (lambda step=step: float(step)), page.time.time
        try:
            training.keep_time(step)
        finally:
            page.time.time = kept
        training.decays = step >= training.state["decay_from"]
    share = page.DECAY_SHARE
    assert training.state["decay_from"] == pytest.approx(10_000 * (1 - share), abs=30)
    assert training.state["steps"] == pytest.approx(10_000, abs=30)
