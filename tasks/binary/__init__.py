"""Two-class problems: tables and pairs of image classes, split, encoded and scaled for a network."""

from .data import BinaryData, BinarySplit
from .dataset import BinaryDataset

__all__ = ["BinaryData", "BinaryDataset", "BinarySplit"]
