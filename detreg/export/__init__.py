"""From a trained network to one ONNX file, and the proof that both find the same."""
