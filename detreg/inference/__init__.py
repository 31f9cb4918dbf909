"""From a picture to detections, with numpy, OpenCV and onnxruntime only: what is served imports nothing else of detreg."""
