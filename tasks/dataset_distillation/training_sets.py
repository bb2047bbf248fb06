"""The sets that a cell may train on: the distilled one, and real images as controls."""

from functools import cached_property

import torch
from torch import Tensor

from orchestrator.task import Artifact, Facts
from tasks.data import ImageData, Transform
from tasks.dataset_distillation.recipe import Labelled
from tasks.dataset_distillation.representative import random_indices, representative_indices

KMEANS_SEED = 0


class TrainingSets:
    """Loads and transforms only what is asked for, once. `facts` are those of the scores to be."""

    def __init__(self, distilled: Artifact, data: ImageData, facts: Facts, device: str) -> None:
        self._distilled, self._data, self._facts, self._device = distilled, data, facts, device

    @cached_property
    def synthetic(self) -> dict[str, Tensor]:
        """`images`, `labels` and the scalar `learning_rate` of the distilled set."""
        return self._distilled.shards[0].tensors("synthetic")

    def train(self, name: str, seed: int) -> Labelled:
        """Images (n,C,H,W) and labels of the set `name`; `seed` decides which images `random` draws."""
        if name == "distilled":
            return Labelled(self.synthetic["images"], self.synthetic["labels"]).to(self._device)
        if name == "full":
            return Labelled(self._pixels, self._labels).to(self._device)
        chosen = self._kmeans if name == "kmeans" else self._random(seed)
        images = self._fitted.apply(self._data.train.images[chosen.numpy()])
        return Labelled(images, self._labels[chosen]).to(self._device)

    def test(self, name: str) -> Labelled:
        """The test images in the space in which the set `name` lives."""
        return self._distilled_test if name == "distilled" else self._control_test

    def _random(self, seed: int) -> Tensor:
        classes, per_class = self._facts["classes"], self._facts["images_per_class"]
        return random_indices(self._labels, classes, per_class, torch.Generator().manual_seed(seed))

    @cached_property
    def _kmeans(self) -> Tensor:
        # Minutes for large images: chosen once a worker, hence from a seed that all repeats share.
        classes, per_class = self._facts["classes"], self._facts["images_per_class"]
        return representative_indices(self._pixels.flatten(1), self._labels, classes, per_class, KMEANS_SEED)

    @property
    def _labels(self) -> Tensor:
        return torch.from_numpy(self._data.train.labels)

    @cached_property
    def _pixels(self) -> Tensor:
        return self._fitted.apply(self._data.train.images)

    @cached_property
    def _fitted(self) -> Transform:
        """Fitted anew, so that no control depends on the distilled artifact."""
        return Transform.fit(self._data.train.images, self._facts["transform"])

    @cached_property
    def _distilled_test(self) -> Labelled:
        return self._transformed_test(Transform.from_tensors(self._distilled.tensors("transform")))

    @cached_property
    def _control_test(self) -> Labelled:
        return self._transformed_test(self._fitted)

    def _transformed_test(self, transform: Transform) -> Labelled:
        split = self._data.test
        return Labelled(transform.apply(split.images), torch.from_numpy(split.labels)).to(self._device)
