"""TensorRT and TensorRT-RTX as backends, and what they share."""
