"""The zoo's door: names, options, sizes, weights and what `info` tells without building."""

import gc
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import kpzoo
import kpzoo.models
from kpzoo.errors import UserError
from kpzoo.geometry import CROP_RULES
from kpzoo.heatmaps import CODECS
from kpzoo.models import build, fresh, info, list_models
from kpzoo.models.counting import count_macs, count_params
from kpzoo.models.mimb import MIMB
from kpzoo.skeletons import CROWDPOSE14

COUNTS = Path(kpzoo.models.__file__).parent / "counts.json"
SMALL_HW = (128, 96)  # at which nano models are counted too


def counted(name):
    with fresh.undrawn():
        model = build(name)
    counts = {"num_params": count_params(model)}
    mimb = sum(count_params(layer) for layer in model.layers if isinstance(layer, MIMB))
    if mimb:
        counts["mimb_params"] = mimb
    models = [model] + ([build(name, image_hw=SMALL_HW)] if name.endswith("_nano") else [])
    counts["macs"] = {"{}x{}".format(*model.preset.image_hw): count_macs(model) for model in models}
    return counts


@pytest.mark.parametrize("name", list_models())
def test_recorded_parameters_and_macs_are_those_of_the_built_model(name, accept):
    recorded = json.loads(COUNTS.read_text("utf-8")) if COUNTS.exists() else {}
    counts = counted(name)
    if accept:
        COUNTS.write_text(json.dumps(dict(sorted({**recorded, name: counts}.items())), indent=1) + "\n", "utf-8")
        return
    assert recorded.get(name) == counts, f"to accept, run `pytest --accept -k {name}`"


def test_counts_hold_the_registered_models_and_no_others():
    assert sorted(json.loads(COUNTS.read_text("utf-8"))) == list_models()


def test_list_models_filters_by_a_shell_pattern():
    assert "cpn_res50" in list_models("cpn_*")
    assert all(name.endswith("_tiny") for name in list_models("*_tiny"))
    assert list_models("nothing_*") == []


def test_info_tells_sizes_without_building():
    row = info("cpn_res50")
    assert (row.family, row.paper) == ("cpn", "arXiv:1711.07319")
    assert (row.num_params, row.macs["256x192"]) == (27009770, 7230615552)
    assert (row.codec, row.normalization) == ("cpn_official", "cpn_bgr")
    assert row.options["refine"] == "cascade"
    assert "27.010 M" in str(row) and "multiply-adds" in row.macs_rule and row.weights == ()


@pytest.mark.parametrize("name", list_models())
def test_info_prints_for_every_model(name):
    assert str(info(name)).startswith(f"{name}: ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="cpn_tinny"), "Unknown model name. Received: 'cpn_tinny'. Did you mean .*'cpn_tiny'"),
        (dict(name="cpn_tiny", width="8"), "Option `width=` of model 'cpn_tiny' must be a positive integer"),
        (dict(name="cpn_tiny", width=0), "must be a positive integer. Received: 0"),
        (dict(name="cpn_tiny", blocks=1), "must be a list of positive integers. Received: 1"),
        (dict(name="cpn_tiny", widths=(8, 8, 12.5, 16)), "must be a list of positive integers"),
        (dict(name="cpn_tiny", num_keypoint=3), "Unknown option of model 'cpn_tiny'. Received: 'num_keypoint'"),
        (dict(name="cpn_tiny", num_instances=2), "Received: 'num_instances'.* Only models named mipnet_"),
        (dict(name="hrnet_tiny", mimb_stages=("stage4",)), "Only models named mipnet_. predict several instances"),
        (dict(name="cpn_tiny", refin=None), "Did you mean 'refine'"),
        (dict(name="cpn_tiny", refine="cascades"), "Unknown refine. .* Did you mean 'cascade'"),
        (dict(name="cpn_tiny", flavour="pytorsch"), "Did you mean 'pytorch'"),
        (dict(name="cpn_lite_tiny", stem=8), "Trunk 'lite_tiny' has none of the options of a ResNet. Received: stem=8"),
        (dict(name="cpn_lite_tiny", blocks=[1, 1, 1, 1]), "none of the options of a ResNet. Received: blocks="),
        (dict(name="cpn_tiny", blocks=None), "must be given for .trunk='resnet'"),
        (dict(name="cpn_tiny", trunk="lite"), "Unknown trunk. .* Did you mean 'lite"),
        (dict(name="cpn_tiny", levels=("c1",)), "Unknown pyramid level"),
        (dict(name="cpn_tiny", levels=()), "one to four distinct levels"),
        (dict(name="cpn_tiny", levels=("c2", "c2")), "one to four distinct levels"),
        (dict(name="cpn_tiny", skeleton="coco18"), "Unknown skeleton. .* Did you mean 'coco17'"),
        (dict(name="cpn_tiny", normalization="imagenet"), "Unknown normalization. .* Did you mean 'imagenet_"),
        (dict(name="cpn_tiny", image_hw=(250, 190)), r"Received: \(250, 190\). .* \(224, 160\) or \(256, 192\)"),
        (dict(name="cpn_tiny", image_hw=(0, 64)), "multiples of 32"),
        (dict(name="cpn_tiny", image_hw=64), r"must be \(height, width\)"),
        (dict(name="cpn_tiny", image_hw=(64, 64, 3)), r"must be \(height, width\)"),
        (dict(name="cpn_tiny", image_hw=(64.5, 64)), r"must be \(height, width\)"),
        (dict(name="cpn_tiny", weights="cpn.pth"), "No weights file 'cpn.pth'"),
        (dict(name="cpn_tiny", weights="nowhere.weights.h5"), "No weights file 'nowhere.weights.h5'"),
    ],
)
def test_mistakes_are_refused_with_help(arguments, message):
    with pytest.raises(UserError, match=message):
        build(**{"image_hw": (64, 64), **arguments})


def test_preset_says_what_was_built():
    model = build("cpn_tiny", image_hw=(64, 96), skeleton="crowdpose14", flavour="pytorch", levels=("c2", "c3"))
    preset = model.preset
    assert (preset.name, preset.image_hw, preset.skeleton) == ("cpn_tiny", (64, 96), CROWDPOSE14)
    assert (preset.normalization, preset.codec, preset.num_instances) == ("cpn_rgb", "cpn_pytorch", 1)
    assert preset.options == {"flavour": "pytorch", "levels": ["c2", "c3"]}
    assert model.output["heatmaps"].shape == (None, 16, 24, 14)


@pytest.mark.parametrize("flavour, normalization", [("official", "cpn_bgr"), ("pytorch", "cpn_rgb")])
def test_flavour_of_cpn_decides_codec_and_normalization(flavour, normalization):
    preset = build("cpn_res50", image_hw=(64, 64), flavour=flavour).preset
    assert (preset.codec, preset.normalization) == (f"cpn_{flavour}", normalization)
    assert preset.rules is CODECS[f"cpn_{flavour}"] and preset.rules.crop is CROP_RULES["cpn"]


def test_weights_file_of_the_same_model_loads_and_another_is_refused(tmp_path):
    model = build("cpn_tiny", image_hw=(64, 64))
    path = tmp_path / "own.weights.h5"
    model.save_weights(path)
    again = build("cpn_tiny", image_hw=(64, 64), weights=path)
    assert all((a == b).all() for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    with pytest.raises(UserError, match="do not fit model 'cpn_tiny'"):
        build("cpn_tiny", image_hw=(64, 64), weights=path, width=12)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="own.weights.h5"):
        build("cpn_tiny", image_hw=(64, 64), weights=path)


@pytest.mark.parametrize(
    ("name", "writer"),
    [("cpn_tiny", "cpn_tiny"), ("mipnet_hrnet_tiny", "hrnet_tiny"), ("mipnet_tiny", "simplebaseline_tiny")],
)
@pytest.mark.filterwarnings("ignore:The file")
def test_a_build_with_weights_is_a_fresh_build_that_loads_them(name, writer, tmp_path):
    keras.utils.set_random_seed(0)
    path = kpzoo.save_weights(build(writer, image_hw=(64, 64)), tmp_path / "model.safetensors")
    keras.utils.set_random_seed(1)
    expected = build(name, image_hw=(64, 64))
    kpzoo.load_weights(expected, path)
    keras.utils.set_random_seed(1)
    found = build(name, image_hw=(64, 64), weights=path)
    assert found.get_config() == expected.get_config()
    for variable, other in zip(found.variables, expected.variables, strict=True):
        assert variable.path == other.path
        np.testing.assert_array_equal(variable, other)
        assert variable.path.split("/")[-1] != "kernel" or np.ptp(variable) > 0, "it was never drawn"


def test_a_seed_gives_fresh_weights_and_none_of_them_depends_on_a_build_with_weights(tmp_path):
    keras.utils.set_random_seed(0)
    first = build("hrnet_tiny", image_hw=(64, 64))
    path = kpzoo.save_weights(first, tmp_path / "model.safetensors")
    np.testing.assert_allclose(first.variables[0][0, 0, 0, :3], [0.178756326, -0.069558784, 0.061329588], rtol=1e-5)
    draws = []
    for weights in (None, path):
        keras.utils.set_random_seed(0)
        build("hrnet_tiny", image_hw=(64, 64), weights=weights)
        draws.append(build("mipnet_tiny", image_hw=(64, 64)).get_weights())
    for one, other in zip(*draws, strict=True):
        np.testing.assert_array_equal(one, other)
    assert gc.isenabled()
