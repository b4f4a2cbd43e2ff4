"""Ensembles: the mean of the heatmaps, at the resolution of the largest crops, in every use of a model."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo import cli, export, heatmaps, images
from kpzoo.errors import UserError
from kpzoo.models.ensemble import MeanOfHeatmaps
from kpzoo.scenes.drawn import draw_scene

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")


def model(name="cpn_tiny", image_hw=(64, 64), seed=0, **options):
    keras.utils.set_random_seed(seed)
    return kpzoo.build(name, image_hw=image_hw, **options)


def crops(count, height, width):
    return np.random.default_rng(0).uniform(0, 255, (count, height, width, 3)).astype("float32")


@pytest.fixture(scope="module")
def pair():
    return [model(seed=seed) for seed in (1, 2)]


def test_the_heatmaps_are_the_mean_of_those_of_the_models(pair):
    image = crops(2, 64, 64)
    expected = np.mean([one({"image": image})["heatmaps"] for one in pair], axis=0)
    np.testing.assert_allclose(kpzoo.ensemble(pair)({"image": image})["heatmaps"], expected, rtol=1e-6)


def test_all_instances_of_mipnets_are_averaged():
    both = [model("mipnet_cpn_tiny", seed=seed) for seed in (1, 2)]
    inputs = {"image": crops(1, 64, 64), "instance": np.eye(2, dtype="float32")[None]}
    expected = np.mean([one(inputs)["heatmaps"] for one in both], axis=0)
    joined = kpzoo.ensemble(both)
    np.testing.assert_allclose(joined(inputs)["heatmaps"], expected, rtol=1e-6)
    assert joined.preset.num_instances == 2 and expected.shape == (1, 2, 16, 16, 17)


@pytest.mark.parametrize("codec", ["cpn_exact", "hrnet"])
@pytest.mark.parametrize("small_hw", [(64, 64), (96, 96)])
def test_heatmaps_of_smaller_crops_keep_the_places_of_the_keypoints(codec, small_hw):
    rules, large_hw = heatmaps.CODECS[codec], (160, 160)
    share = np.random.default_rng(3).uniform(0.25, 0.75, (5, 17, 2))
    visible = np.full((5, 17), 2)
    maps = []
    for side, _ in (large_hw, small_hw):
        points = tf.constant(share * side, tf.float32)
        maps.append(heatmaps.encode(rules, points, visible, (side, side))["heatmaps"])
    convention = "half_pixel" if rules.cell_centre else "legacy"
    mean = MeanOfHeatmaps((40, 40), convention)(maps)
    found = heatmaps.decode(rules, mean)[0].numpy()
    rounded = 0.0 if codec == "cpn_exact" else 0.5 * 160 / small_hw[0]  # HRNet's labels lie at the nearest cell
    bias = np.abs((found - share * 160).mean(axis=(0, 1)))
    assert np.abs(found - share * 160).max() < 4 * (0.25 + 1.5 * rounded)
    assert (bias < 0.5).all(), bias


def test_crops_of_several_sizes_are_joined_at_the_largest():
    joined = kpzoo.ensemble([model(image_hw=(64, 64)), model(image_hw=(128, 128))])
    assert joined.preset.image_hw == (128, 128)
    assert joined({"image": crops(1, 128, 128)})["heatmaps"].shape == (1, 32, 32, 17)


def test_a_smaller_model_sees_the_crop_that_it_would_see_alone():
    scene = tf.constant(draw_scene(3)[0][None], tf.float32)
    small = model(image_hw=(64, 64))
    joined = kpzoo.ensemble([small, model(image_hw=(128, 128))])
    seen = keras.Model(joined.input, joined.get_layer("smaller_0").output)
    view = kpzoo.geometry.views(np.array([[60.0, 40.0, 90.0, 100.0]]), small.preset.rules.crop, (128, 128))
    cut = {
        side: kpzoo.crops.crop(
            scene[0],
            tf.constant(kpzoo.geometry.crop_to_image(view, (side, side))[0], tf.float32),
            (side, side),
            (0.0, 0.0, 0.0),
        )
        for side in (64, 128)
    }
    np.testing.assert_allclose(seen({"image": cut[128][None]})[0], cut[64], atol=1e-2)


def test_an_ensemble_is_saved_and_accelerated_as_any_model(pair, tmp_path):
    joined, image = kpzoo.ensemble(pair), crops(3, 64, 64)
    joined.save(tmp_path / "joined.keras")
    loaded = keras.saving.load_model(tmp_path / "joined.keras")
    assert loaded.preset == joined.preset
    known = joined({"image": image})["heatmaps"]
    np.testing.assert_array_equal(loaded({"image": image})["heatmaps"], known)
    keypoints, scores = kpzoo.accelerate(joined)(image, flip=False)
    expected, expected_scores = heatmaps.decode(joined.preset.rules, known)
    np.testing.assert_allclose(keypoints[:, 0], expected, atol=1e-3)
    np.testing.assert_allclose(scores[:, 0], expected_scores, rtol=1e-4, atol=1e-6)


def test_an_ensemble_is_exported(pair, tmp_path):
    joined = kpzoo.ensemble(pair)
    assert export.compare(joined, export.to_savedmodel(joined, tmp_path / "saved")).passed


def test_the_command_averages_models(shipped_model, tmp_path, capsys):
    images.write_image(tmp_path / "scene.png", draw_scene(1)[0])
    arguments = ["predict", str(tmp_path / "scene.png"), "--box", "20", "20", "80", "100", "--no-flip"]
    models = ["--model", shipped_model.name, "--ensemble", kpzoo.info(shipped_model.name).weights[-1]]
    assert not cli.main([*arguments, *models, "--out", str(tmp_path / "out")])
    alone = kpzoo.Predictor(shipped_model, flip=False)(images.read_image(tmp_path / "scene.png"), [[20, 20, 80, 100]])
    [row] = json.loads((tmp_path / "out/results.json").read_text())
    found = np.array(row["keypoints"]).reshape(-1, 3)
    np.testing.assert_allclose(found[:, :2], alone.keypoints_xy[0], atol=0.01)  # twice the same network


def wrong(what):
    return {
        "skeleton": [model(), model(skeleton="crowdpose14")],
        "codec": [model(), model("hrnet_tiny")],
        "number of instances": [model(), model("mipnet_cpn_tiny")],
        "aspect of the crops": [model(), model(image_hw=(64, 96))],
        "two or more different": [model()],
        "pose models": [model(), keras.Sequential()],
    }[what]


@pytest.mark.parametrize(
    "what",
    ["skeleton", "codec", "number of instances", "aspect of the crops", "two or more different", "pose models"],
)
def test_models_that_do_not_fit_are_refused(what):
    with pytest.raises(UserError, match=what):
        kpzoo.ensemble(wrong(what))


def test_a_model_counts_once(pair):
    with pytest.raises(UserError, match="two or more different"):
        kpzoo.ensemble([pair[0], pair[0]])


def test_untrained_models_are_not_averaged(tmp_path, capsys):
    options = ["--untrained", "--ensemble", "cpn_nano", "--out", str(tmp_path / "a")]
    assert cli.main(["export", "--model", "cpn_tiny", *options]) == 2
    assert "--ensemble" in capsys.readouterr().err
