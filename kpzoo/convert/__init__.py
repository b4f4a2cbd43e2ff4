"""Data sets of other programs: reads their exports, and writes COCO-format and YOLO-pose folders."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "read": "kpzoo.convert.formats",
        "to_coco": "kpzoo.convert.coco_folder",
        "to_results": "kpzoo.convert.results_file",
        "to_yolo": "kpzoo.convert.yolo_folder",
    },
)
