"""A SavedModel answers what the Keras model answers, in a process that has TensorFlow alone."""

import subprocess
import sys
import textwrap

import cv2
import keras
import numpy as np
import pytest

import kpzoo
from kpzoo import export
from kpzoo.errors import UserError
from kpzoo.inference import make_predictor, predict

CLIENT = """
    import sys
    sys.modules["kpzoo"] = None  # importing it fails
    import numpy as np, tensorflow as tf
    loaded = tf.saved_model.load(sys.argv[1])
    asked = np.load(sys.argv[2], allow_pickle=False)
    serve, crops, image = (loaded.signatures[n] for n in ("serving_default", "predict_crops", "predict_image"))
    answers = {f"heatmaps_{b}": serve(image=tf.constant(asked["image"][:b]))["heatmaps"] for b in (1, 3)}
    contents = tf.io.read_file(sys.argv[3])
    for flip in (False, True):
        found = crops(image=tf.constant(asked["image"]), flip=tf.constant(flip))
        answers[f"crops_{flip}"] = found["keypoints_crop_xy"]
        for count in (0, 2):
            boxes = tf.constant(asked["boxes"][:count])
            found = image(contents=contents, boxes_xywh=boxes, flip=tf.constant(flip))
            for name in ("keypoints_xy", "keypoint_scores", "scores"):
                answers[f"{name}_{flip}_{count}"] = found[name]
    np.savez(sys.argv[4], **{name: value.numpy() for name, value in answers.items()})
"""


def with_random_statistics(model):
    """Moves the batch norms away from the identity, so that a lost variable shows."""
    rng = np.random.default_rng(0)
    for variable in model.non_trainable_variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def test_a_savedmodel_answers_as_the_keras_model_without_kpzoo(tmp_path):
    keras.utils.set_random_seed(1)
    model = with_random_statistics(kpzoo.build("cpn_tiny", image_hw=(64, 64)))
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (160, 120))
    cv2.imwrite(str(tmp_path / "picture.png"), picture[..., ::-1])
    image = rng.uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
    boxes = np.array([[10, 10, 50, 90], [60, -20, 120, 100]], np.float32)
    np.savez(tmp_path / "asked.npz", image=image, boxes=boxes)
    folder = export.to_savedmodel(model, tmp_path / "cpn_tiny" / "1")
    command = [sys.executable, "-c", textwrap.dedent(CLIENT)]
    paths = [folder, tmp_path / "asked.npz", tmp_path / "picture.png", tmp_path / "answers.npz"]
    result = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    answers = np.load(tmp_path / "answers.npz")
    for count in (1, 3):
        expected = model({"image": image[:count]})["heatmaps"]
        np.testing.assert_allclose(answers[f"heatmaps_{count}"], expected, atol=1e-5)
    for flip in (False, True):
        np.testing.assert_allclose(answers[f"crops_{flip}"], make_predictor(model, flip)(image)[0], atol=0.01)
        poses = predict(model, picture, boxes, flip=flip)
        np.testing.assert_allclose(answers[f"keypoints_xy_{flip}_2"][:, 0], poses.keypoints_xy, atol=0.01)
        np.testing.assert_allclose(answers[f"keypoint_scores_{flip}_2"][:, 0], poses.keypoint_scores, atol=1e-5)
        np.testing.assert_allclose(answers[f"scores_{flip}_2"][:, 0], poses.scores, atol=1e-5)
        assert answers[f"keypoints_xy_{flip}_0"].shape == (0, 1, 17, 2)


def test_an_existing_folder_is_not_replaced_unasked(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export.to_savedmodel(kpzoo.build("cpn_tiny", image_hw=(64, 64)), tmp_path / "1")
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
