"""From the shipped graph to the integer products that ONNX Runtime runs on a CPU."""
