"""Calibration: sets of images on disk, and observers of activation ranges.

What is exported here needs numpy and Pillow alone. The observers
(:mod:`mimiq.calibrate.observers`) need torch and are imported from their own module.
"""

from mimiq.calibrate.dataset import CalibrationSet
from mimiq.calibrate.manifest import make_manifest
from mimiq.calibrate.sources import from_folder, gaussian_noise, open_or_import
from mimiq.calibrate.writing import CalibrationSetWriter

__all__ = [
    "CalibrationSet",
    "CalibrationSetWriter",
    "from_folder",
    "gaussian_noise",
    "make_manifest",
    "open_or_import",
]
