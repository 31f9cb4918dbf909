"""From an image to detections, with numpy, OpenCV and onnxruntime only.

Nothing here imports torch, MMDetection or MLflow; import-linter checks it (pyproject.toml).
"""
