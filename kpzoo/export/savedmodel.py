"""Export as SavedModels whose graph goes from an encoded image to keypoints, for TensorFlow Serving."""

import json
from pathlib import Path

import tensorflow as tf

from kpzoo import crops, heatmaps
from kpzoo.export import person_boxes
from kpzoo.export.description import checked_model, description
from kpzoo.files import written_whole
from kpzoo.inference.box_poses import SECOND_INSTANCE_DECAY
from kpzoo.inference.folded_model import FoldedModel, decode, instance_heatmaps, output_names
from kpzoo.pose_model import PersonModel, PoseModel, Preset, ZooModel

CROPS_AT_ONCE = 32  # boxes per batch, so that memory does not grow with the number of boxes
DESCRIPTION = "assets.extra/kpzoo.json"  # TensorFlow Serving's folder for additional files


def to_savedmodel(model: ZooModel, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Exports a model as a SavedModel that crops, predicts, averages with the flip, decodes and scores in its graph.

    The signatures have dynamic batch sizes and float32 outputs:

    * `serving_default`: from `image` (B, H, W, 3) float32 RGB in [0, 255], and for MIPNets `instance` (B, M, N) float32
      one-hot, to the outputs of the model. B ≥ 1.
    * `predict_crops`: from `image` and `flip` () bool to `keypoints_crop_xy` (B, N, K, 2) and `keypoint_scores`
      (B, N, K), and for models with a `preset.confidence` `keypoint_covariance_crop` (B, N, K, 2, 2) in crop pixels²
      and `pose_scores` (B, N) for a box score of 1.
    * `predict_image`: from `contents` () string, an encoded JPEG, PNG, GIF or BMP image, `boxes_xywh` (P, 4) float32
      and `flip` to `keypoints_xy` (P, N, K, 2) in image pixels, `keypoint_scores` (P, N, K) and `scores` (P, N), and
      for models with a `preset.confidence` `covariance_xy` (P, N, K, 2, 2) in image pixels². The EXIF orientation is
      not applied.
    * `predict_images`: the same for several images at once: `contents` (I,), `boxes_xywh`, `image_indices` (P,) int32,
      the image of each box, and `flip`. Servers fill batches with it.

    Those of a person detector: `serving_default`, and `predict_image`: `contents` and `min_score` () float32 to
    `boxes_xywh` (P, 4) in image pixels and `scores` (P,), best first, where an IoU above 0.6 removes the worse box.

    Args:
        model: Any model of the zoo.
        folder: Folder to write. TensorFlow Serving expects a version number in a folder of the model.
        overwrite: Whether to replace an existing folder.

    Returns:
        The folder.
    """
    if isinstance(checked_model(model), PersonModel):
        module = person_boxes.serving_module(model, _pixels)
    else:
        module = _serving_module(model)
    with written_whole(folder, overwrite=overwrite) as part:
        tf.saved_model.save(module, str(part), signatures=module.served)
        (part / DESCRIPTION).parent.mkdir(exist_ok=True)
        (part / DESCRIPTION).write_text(json.dumps(description(model), indent=1), "utf-8")
    return Path(folder).expanduser()


def _serving_module(model: PoseModel) -> tf.Module:
    """Returns a module that holds each weight once, with the signatures in `served`.

    The weights are those of `kpzoo.accelerate`, with batch normalization folded into the convolutions.
    """
    preset, folded = model.preset, FoldedModel(model)
    module = tf.Module()
    module.kept = [tf.Variable(weight, trainable=False) for weight in folded.weights()]
    module.kept = module.kept or [variable.value for variable in model.variables]
    image_spec = tf.TensorSpec((None, *preset.image_hw, 3), tf.float32, name="image")
    contents_spec = tf.TensorSpec((), tf.string, name="contents")
    boxes_spec = tf.TensorSpec((None, 4), tf.float32, name="boxes_xywh")
    several_spec = tf.TensorSpec((None,), tf.string, name="contents")
    indices_spec = tf.TensorSpec((None,), tf.int32, name="image_indices")
    flip_spec = tf.TensorSpec((), tf.bool, name="flip")
    inputs = {name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in model.input.items()}

    def network(inputs):
        return folded(inputs, [variable.read_value() for variable in module.kept])

    @tf.function(input_signature=[inputs], autograph=False)
    def forward(inputs):
        return {name: tf.cast(value, tf.float32) for name, value in network(inputs).items()}

    @tf.function(input_signature=[image_spec], autograph=False)
    def ask(image):  # a function, so that the graph has the network only once
        return instance_heatmaps(model, image, network)

    @tf.function(input_signature=[image_spec, flip_spec], autograph=False)
    def predict_crops(image, flip):
        return dict(zip(output_names(preset), _decoded(preset, ask, image, flip), strict=True))

    @tf.function(input_signature=[several_spec, boxes_spec, indices_spec, flip_spec], autograph=False)
    def predict_images(contents, boxes_xywh, image_indices, flip):
        return _images_to_keypoints(preset, ask, contents, boxes_xywh, image_indices, flip)

    @tf.function(input_signature=[contents_spec, boxes_spec, flip_spec], autograph=False)
    def predict_image(contents, boxes_xywh, flip):
        return predict_images(contents[None], boxes_xywh, tf.zeros(tf.shape(boxes_xywh)[:1], tf.int32), flip)

    served = {"serving_default": forward, "predict_crops": predict_crops}
    module.served = {**served, "predict_image": predict_image, "predict_images": predict_images}
    return module


def _decoded(preset: Preset, ask, image: tf.Tensor, flip: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Returns the outputs of `folded_model.decode` for (B, H, W, 3) crops."""
    codec = preset.rules
    # Convolutions of empty batches fail on some CPUs: a row is added and removed from the outputs.
    image, count = tf.pad(image, [[0, 1], [0, 0], [0, 0], [0, 0]]), tf.shape(image)[0]
    image = image[: tf.maximum(count, 1)]
    maps = ask(image)

    def both_sides():
        return heatmaps.merge_flipped(codec, maps, ask(tf.reverse(image, axis=[2])), preset.skeleton.flip_order)

    flip &= preset.skeleton.sides_known
    return tuple(found[:count] for found in decode(preset, tf.cond(flip, both_sides, lambda: maps)))


def _images_to_keypoints(preset: Preset, ask, contents, boxes_xywh, indices, flip) -> dict[str, tf.Tensor]:
    """Returns the keypoints in (P, 4) boxes of (I,) encoded images, `CROPS_AT_ONCE` boxes at a time."""
    codec = preset.rules
    rule = codec.crop
    fine = tf.reduce_all(tf.math.is_finite(boxes_xywh)) & tf.reduce_all(boxes_xywh[:, 2:] > 0)
    told = ["boxes_xywh must be finite x, y, width, height with sizes above 0. Received:", boxes_xywh]
    with tf.control_dependencies([tf.Assert(fine, told, summarize=40)]):
        boxes_xywh = tf.identity(boxes_xywh)  # nothing is cropped before the check
    count = tf.shape(contents)[0]
    images = tf.TensorArray(tf.uint8, count, infer_shape=False, element_shape=(None, None, 3), clear_after_read=False)
    _, images = tf.while_loop(
        lambda index, _: index < count,
        lambda index, images: (index + 1, images.write(index, _pixels(contents[index]))),
        (tf.constant(0), images),
    )
    views = crops.views_in_graph(boxes_xywh, rule, preset.image_hw)

    def one(place):
        view, index = place
        matrix = crops.view_matrix(view, 1.0, tf.constant(0.0), tf.constant(False), preset.image_hw)
        return crops.crop(images.read(index), matrix, preset.image_hw, rule.fill_rgb), matrix

    shapes = (tf.TensorSpec((*preset.image_hw, 3), tf.float32), tf.TensorSpec((2, 3), tf.float32))

    def some(start, *arrays):
        places = views[start : start + CROPS_AT_ONCE], indices[start : start + CROPS_AT_ONCE]
        image, matrices = tf.map_fn(one, places, fn_output_signature=shapes)
        keypoints, *found = _decoded(preset, ask, image, flip)
        found = [crops.to_image(matrices, keypoints), *found]
        if len(found) > 2:
            found[2] = crops.covariance_to_image(matrices, found[2])
        written = (array.write(start // CROPS_AT_ONCE, each) for array, each in zip(arrays, found, strict=True))
        return start + CROPS_AT_ONCE, *written

    def rows(*shape):
        return tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=(None, *shape))

    people = (preset.num_instances, preset.skeleton.num_keypoints)
    count = tf.maximum(tf.shape(views)[0], 1)  # without boxes one empty iteration defines the shapes
    start = [tf.constant(0), rows(*people, 2), rows(*people)]
    if preset.confidence is not None:
        start += [rows(*people, 2, 2), rows(preset.num_instances)]
    _, *arrays = tf.while_loop(lambda start, *_: start < count, some, start, parallel_iterations=1)
    keypoints, scores, *confident = (array.concat() for array in arrays)
    decay = tf.where(tf.range(preset.num_instances) > 0, SECOND_INSTANCE_DECAY, 1.0)
    return {
        "keypoints_xy": keypoints,
        "keypoint_scores": scores,
        "scores": decay * confident[1] if confident else heatmaps.pose_scores(codec, scores, decay),
        **({"covariance_xy": confident[0]} if confident else {}),
    }


def _pixels(contents: tf.Tensor) -> tf.Tensor:
    """Decodes an image to (H, W, 3) uint8 RGB. Refuses BMP with a palette, which TensorFlow misreads."""
    is_long_bmp = (tf.strings.substr(contents, 0, 2) == b"BM") & (tf.strings.length(contents) >= 30)
    bits = tf.cond(
        is_long_bmp,
        lambda: tf.io.decode_raw(tf.strings.substr(contents, 28, 2), tf.uint16)[0],
        lambda: tf.constant(24, tf.uint16),
    )
    with tf.control_dependencies([tf.Assert(bits > 8, ["A BMP with a palette cannot be read. Send JPEG or PNG."])]):
        contents = tf.identity(contents)
    pixels = tf.cond(
        tf.io.is_jpeg(contents),
        # INTEGER_ACCURATE is bit-identical with OpenCV.
        lambda: tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(contents, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(pixels, (None, None, 3))
