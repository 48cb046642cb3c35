"""From the shipped graph to the half-precision form that TensorRT builds."""
