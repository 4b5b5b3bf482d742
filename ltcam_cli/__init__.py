"""ltcam: where is the defect? Pixel masks from image-level labels, by class activation maps."""

__version__ = "0.1.0"
