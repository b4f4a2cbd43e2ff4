"""The benchmarks' common ground, and their page, which is made of the files of results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_onnx_layouts import write_onnx

import kpzoo
from kpzoo import images
from kpzoo.commands.predict import DEFAULT_MODEL
from kpzoo.models import fresh
from kpzoo.models.counting import count_macs
from kpzoo.scenes import drawn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import macs  # noqa: E402
import measure  # noqa: E402
import readme  # noqa: E402
import scaling  # noqa: E402
import soak_video  # noqa: E402


@pytest.fixture
def no_peaks(monkeypatch):
    """Lets reports come without a measurement of the machine."""
    monkeypatch.setattr(measure, "peaks", lambda: {"float32": 100.0, "bfloat16": 200.0})


def test_the_page_is_made_of_the_files_of_results():
    assert readme.README.read_text(encoding="utf-8") == readme.text(), "run `python benchmarks/readme.py`"


def test_the_page_on_scaling_is_made_of_its_files_of_results():
    assert scaling.PAGE.read_text(encoding="utf-8") == scaling.page(), "run `python benchmarks/scaling.py --page`"


def test_the_arithmetic_of_scaling_is_that_of_a_pencil(monkeypatch):
    monkeypatch.setattr(scaling, "MODELS", {"cpn_res50": ("256x192", 60_000, 350)})
    line = scaling.arithmetic({"256x192": 100.0})[0]
    crops_per_s = 30e12 / (6 * kpzoo.info("cpn_res50").macs["256x192"])
    assert line["crops/s of a GPU"] == round(crops_per_s)
    assert line["cores to feed 8 GPUs"] == pytest.approx(8 * crops_per_s / 100, abs=1)
    assert line["hours, 1 GPU"] == pytest.approx(21e6 / crops_per_s / 3600, abs=0.06)
    assert line["ms of the network"] == round(1.75 * 4 * kpzoo.info("cpn_res50").num_params / 12.5e9 * 1000)


def test_the_arithmetic_of_clusters_is_that_of_a_pencil(monkeypatch):
    monkeypatch.setattr(scaling, "NODES", (8,))
    table = [{"stage": "", "core ms of a picture": ms} for ms in (2.0, 50.0, 8.0, 100.0)]
    on_cores, on_gpus = scaling.clusters(table, people=3)
    assert on_cores["cores: pictures/s"] == 800
    assert (on_cores["limited by"], on_cores["hours"]) == ("cores", pytest.approx(1e7 / 800 / 3600, abs=0.01))
    assert on_cores["node-hours per million"] == pytest.approx(8 * 1e6 / 800 / 3600, abs=0.01)
    poses, boxes = (next(iter(kpzoo.info(name).macs.values())) for name in (scaling.POSES, scaling.DETECTOR))
    assert on_gpus["GPUs: pictures/s"] == pytest.approx(8 * 30e12 / (2 * boxes + 12 * poses), abs=1)
    assert on_gpus["cores: pictures/s"] == 12_800


def test_a_core_feeds_what_one_of_two_threads_makes_of_photos():
    crops = [{"crop": "256x192", scaling.RATE: 600.0}, {"crop": "384x288", scaling.RATE: 300.0}]
    samples = [
        {"way": "kpzoo, 1 thread", "samples/s": "490 (480 … 500)"},
        {"way": "kpzoo, 2 threads", "samples/s": "900 (880 … 910)"},
        {"way": "kpzoo, packed, 2 threads", "samples/s": "1200 (1100 … 1300)"},
    ]
    assert [list(row.values()) for row in scaling.feeding(crops, samples)] == [
        ["256x192", 450, 600],
        ["384x288", 225, 300],
    ]


@pytest.mark.parametrize("name", scaling.TWO_QUERIES)
def test_two_queries_cost_what_the_page_on_scaling_takes_for_granted(name):
    with fresh.undrawn():  # weights do not count
        model = kpzoo.build(name)
    assert scaling.TWO_QUERIES[name] == pytest.approx(macs.bound(model), abs=0.005)


def test_a_training_asks_mipnets_for_two(monkeypatch):
    monkeypatch.setattr(scaling, "MODELS", {name: ("256x192", 1000, 1) for name in ("mipnet_res50", "cpn_res50")})
    mipnet, cpn = (line["GFLOP of a crop's step"] for line in scaling.arithmetic({"256x192": 100.0}))
    work = kpzoo.info("mipnet_res50").macs["256x192"], kpzoo.info("cpn_res50").macs["256x192"]
    assert mipnet / cpn == pytest.approx(1.67 * work[0] / work[1])


@pytest.mark.parametrize("queries", [1, 2])
def test_the_accelerated_graph_of_queries_multiplies_what_layers_say(queries):
    model = kpzoo.build("mipnet_tiny", image_hw=(64, 64))
    expected = count_macs(model) * macs.bound(model, queries)
    assert macs.accelerated(model, queries) == pytest.approx(expected, rel=0.01)


def test_speed_counts_two_operations_and_takes_the_peak_of_the_precision(no_peaks):
    assert measure.speed("float32", 1e9, 40.0) == {"G multiply-adds": 1.0, "GFLOP/s": 50.0, "of the peak": "50 %"}
    assert measure.speed("x, bfloat16", 1e9, 40.0)["of the peak"] == "25 %"


def test_rounds_go_through_the_alternatives_forwards_and_backwards():
    calls = []
    times = measure.interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 3, warm_up=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert list(times) == ["a", "b"]
    assert all(found.low <= found.median <= found.high for found in times.values())


@pytest.mark.parametrize(
    ("limits", "reached", "met"),
    [
        ({"at_least": 2}, 2.0, "yes"),
        ({"at_least": 2}, 1.9, "no"),
        ({"at_most": 2}, 2.1, "no"),
        ({"at_most": 2}, 1, "yes"),
    ],
)
def test_a_bar_is_met_on_its_side_of_the_limit(limits, reached, met):
    assert measure.bar("speed", reached, **limits)["met"] == met


def test_a_report_is_a_file_that_becomes_a_section(no_peaks, tmp_path, capsys):
    bars = [measure.bar("speed", 3.0, at_least=2.0, unit="x")]
    measure.report("demo", "A demo", "python demo.py", {"Times": [{"a": 1.23456, "b": "x"}]}, bars, folder=tmp_path)
    assert json.loads((tmp_path / "demo.json").read_text())["bars"][0]["met"] == "yes"
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]
    page = readme.text(tmp_path)
    assert page.startswith(readme.INTRODUCTION)
    assert "| speed | ≥ 2x | 3x | yes |" in page
    assert "| 1.235 | x |" in page
    assert capsys.readouterr().out.strip() in page


def test_the_growth_of_a_video_run_is_the_slope_after_the_warm_up():
    start = [soak_video.Sample(number, 1000 * number, 0, 90 * number) for number in range(20)]  # warm-up
    later = [soak_video.Sample(number, 1000 * number, 0, 5000 + 7000 * number) for number in range(20, 100)]
    end = [soak_video.Sample(200, 100_000, 0, 10**6)]  # when tables are written
    found, error, settled = soak_video.slope(start + later + end, 100_000)
    assert found == pytest.approx(7) and error == pytest.approx(0, abs=1e-9) and settled == later
    with pytest.raises(SystemExit, match="Too few samples"):
        soak_video.slope(start, 100_000)


def test_frames_poses_and_identities_are_counted_as_they_are_written(tmp_path):
    poses = [[{"keypoints": [], "track_id": 2}], [], [{"keypoints": []}, {"keypoints": [], "track_id": 11}]]
    rows = [{"file_name": str(number), "poses": one} for number, one in enumerate(poses)]
    lines = [json.dumps(one, separators=(",", ":")) for one in ({"settings": {}}, *rows, {"state": {"track_id": 20}})]
    text, counter = ("\n".join(lines) + "\n").encode(), soak_video.Counter(tmp_path / "progress.jsonl")
    assert counter.read() == 0  # not yet written
    for piece in (text[:-50], text[-50:]):
        with counter.path.open("ab") as file:
            file.write(piece)
        counter.read()
    assert (counter.frames, counter.poses, counter.identities) == (3, 3, 11)


def test_the_evaluation_benchmark_finds_equal_numbers(no_peaks, capsys):
    import evaluation

    evaluation.main(["--images", "40", "--rounds", "1"])
    assert "| largest difference of the ten numbers | ≤ 1e-12 | 0 | yes |" in capsys.readouterr().out


def test_the_benchmark_of_queries_asks_the_twin_and_two_and_three(no_peaks, monkeypatch, capsys):
    import queries

    monkeypatch.setattr(queries, "FAMILIES", {"mipnet_tiny": "simplebaseline_tiny"})
    queries.main(["--models", "mipnet_tiny", "--batch-size", "1", "--rounds", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| N = ")]
    assert [row.split("|")[1].strip().partition(": ")[::2] for row in rows] == [
        ("N = 1", "simplebaseline_tiny"),
        *((f"N = {n}", what) for n in (2, 3) for what in ("one query", f"{n} queries at once", f"{n} calls")),
    ]


def test_the_input_benchmark_times_the_loop_the_stream_and_each_stage(no_peaks, tmp_path, monkeypatch, capsys):
    import input_pipeline

    monkeypatch.setattr(input_pipeline, "SAMPLES", 32)
    drawn.write_drawn(tmp_path / "drawn", 6, split="train", seed=3)
    input_pipeline.main(["--data", str(tmp_path / "drawn"), "--batches", "1", "--rounds", "1"])
    text = capsys.readouterr().out
    for part in (input_pipeline.LOOP, "kpzoo, 2 threads", *input_pipeline.COMPOSED, "decode the window"):
        assert f"| {part} |" in text
    assert "The photos are those of drawn, split train" in text


def test_the_tracking_benchmark_compares_trackers_and_ways_through_a_video(no_peaks, capsys):
    import tracking

    tracking.main(["--frames", "7", "--people", "2", "--videos", "1", "--models", DEFAULT_MODEL, "--rounds", "1"])
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith((f"| {DEFAULT_MODEL} |", "| drawn, 2% noise"))]
    assert len(rows) == 2 * len(tracking.TRACKERS)
    for part in (*tracking.WAYS, "identity switches", "jitter of still joints", "lag of moving joints"):
        assert part in text


def test_the_detector_benchmark_times_both_detectors_from_the_same_files(no_peaks, tmp_path, capsys):
    import detector

    (tmp_path / "photos").mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8)
        images.write_image(tmp_path / f"photos/{seed}.jpg", pixels)
    layout = dict(boxes=np.zeros((1, 2, 4), np.float32), scores=np.zeros((1, 2), np.float32))
    write_onnx(tmp_path / "other.onnx", layout, shape=(1, 64, 64, 3), kind=2)
    detector.main(["--images", str(tmp_path / "photos"), "--onnx", str(tmp_path / "other.onnx"), "--rounds", "1"])
    text = capsys.readouterr().out
    assert "2 photos, one at a time" in text and "other, ONNX Runtime" in text and "time over that of the other" in text
