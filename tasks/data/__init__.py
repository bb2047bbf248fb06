"""Datasets, the transforms that networks see them through, and augmentation."""

from .augment import GROUPS, Drawn, augment, check_strategy, draw
from .dataset import OWN, READERS, Dataset
from .image_data import ImageData, Split
from .transform import Transform

__all__ = [
    "GROUPS",
    "OWN",
    "READERS",
    "Dataset",
    "Drawn",
    "ImageData",
    "Split",
    "Transform",
    "augment",
    "check_strategy",
    "draw",
]
