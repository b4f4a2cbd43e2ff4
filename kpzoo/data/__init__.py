"""Data sets: COCO-format files, synthetic scenes, crops, batches."""
