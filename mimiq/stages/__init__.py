"""The stages of a compilation: images, measuring, sensitivity, promotion."""
