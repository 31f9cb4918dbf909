"""From the feature maps of a network to detections, in operators that ONNX has.

One file for each kind of head (yolox.py, one_stage.py, two_stage.py), and table.py, which maps the
name that a template declares to its file. The results equal MMDetection's own post-processing.
Boxes are clipped to the padded image, which is what the network sees, before NMS, as MMDetection
does; YOLOX clips nothing there.
"""
