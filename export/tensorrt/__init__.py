"""TensorRT and TensorRT-RTX: engines built from Q/DQ graphs, and the proof of their precision.

``product`` loads either library, ``build`` builds, ``plan`` and ``inspector`` read back what was
built, ``proof`` judges and prints it, ``engines`` does all of it for a bundle.
"""
