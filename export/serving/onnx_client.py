"""Predicts keypoints with ONNX Runtime: `python onnx_client.py model.onnx photo.jpg X Y WIDTH HEIGHT`."""

import json
import sys

import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
(height, width), rule, count = told["image_hw"], told["crop_rule"], told["num_instances"]
x, y, box_width, box_height = map(float, sys.argv[3:7])
grown = max(box_width * rule["grow_xy"][0], box_height * rule["grow_xy"][1] * width / height) * rule["padding"]
step = grown / width  # image pixels per crop pixel
left, top = x + (box_width - grown) / 2, y + (box_height - step * height) / 2
pixels = cv2.cvtColor(cv2.imread(sys.argv[2]), cv2.COLOR_BGR2RGB).astype(np.float32)
flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
matrix = np.array([[step, 0, left], [0, step, top]])
crop = cv2.warpAffine(pixels, matrix, (width, height), flags=flags, borderValue=rule["fill_rgb"])
feeds = {"image": crop[None], "instance": np.eye(count, dtype=np.float32)[None]}
feeds = {entry.name: feeds[entry.name] for entry in session.get_inputs()}
keypoints, scores = session.run(["keypoints_crop_xy", "keypoint_scores"], feeds)
for person, sure in zip(keypoints[0] * step + (left, top), scores[0], strict=True):  # all persons of the box
    rows = np.column_stack([person, sure]).tolist()  # x, y in image pixels, score
    print(json.dumps(dict(zip(told["keypoints"], rows, strict=True))))
