"""A small world for students: a network without batch norm, samples that need no images, and a training of both."""

import numpy as np
import torch
from torch import nn

from orchestrator.task import derive_seed
from tasks.model_distillation.losses.nd import directions
from tasks.model_distillation.methods import Method
from tasks.model_distillation.optimisation import Optimisation
from tasks.model_distillation.ranks import Ranks
from tasks.model_distillation.student_loss import Objective, Sizes, Targets
from tasks.model_distillation.student_training import Recipe, Training
from tasks.nets.trace import Trace

CLASSES, PIXELS, FEATURES, TEACHER_FEATURES = 3, 6, 5, 4


class Plain(nn.Module):
    """Rows (N, 6) to logits (N, 3), in float64, where one order of sums is as good as another."""

    def __init__(self, normed=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(11)
            self.body = nn.Linear(PIXELS, FEATURES)
            self.norm = nn.BatchNorm1d(FEATURES) if normed else nn.Identity()
            self.head = nn.Linear(FEATURES, CLASSES)
        self.double()

    def trace(self, images):
        features = torch.tanh(self.norm(self.body(images)))
        return Trace(self.head(features), features, ())

    def forward(self, images):
        return self.trace(images).logits


class Rows:
    """float64 rows around a centre for each class, a teacher that knows the centres; remembers what was asked for."""

    def __init__(self, count=40):
        generator = torch.Generator().manual_seed(5)
        centres = 2 * torch.randn(CLASSES, PIXELS, generator=generator).double()
        self.classes = torch.arange(count) % CLASSES
        self.images = centres[self.classes] + torch.randn(count, PIXELS, generator=generator).double()
        self.logits = -torch.cdist(self.images, centres)
        self.features = torch.randn(count, TEACHER_FEATURES, generator=generator).double()
        self.asked = []

    def numbers(self, epoch):
        return np.arange(len(self.classes))

    def batch(self, epoch, numbers):
        self.asked.append((epoch, numbers.tolist()))
        rows = torch.from_numpy(numbers)
        classes, share = self.classes[rows], torch.ones(len(rows)).double()
        return self.images[rows], Targets(classes, classes, share, self.logits[rows], self.features[rows])


def training(method, *, rows=None, ranks=None, student=None, **recipe):
    """Of a Plain student on Rows; `recipe` changes the recipe."""
    rows, ranks = rows or Rows(), ranks or Ranks()
    optimisation = {"lr": 0.1, "weight_decay": 1e-4, **recipe.pop("optimisation", {})}
    kept = {"epochs": 3, "batch_size": 8, "optimisation": Optimisation(**optimisation), **recipe}
    means = torch.stack([rows.features[rows.classes == label].mean(0) for label in range(CLASSES)])
    with torch.random.fork_rng():
        torch.manual_seed(7)
        objective = Objective(
            Method.model_validate(method), Sizes(FEATURES, CLASSES, TEACHER_FEATURES), directions(means)
        ).double()
    return Training(
        student or Plain(), objective, rows, Recipe(**kept),
        order=lambda epoch: derive_seed("order", epoch), chance=lambda *path: derive_seed(*path),
        ranks=ranks, device="cpu",
    )  # fmt: skip


def ran(made, save=lambda make: None):
    """The training, to its end."""
    made.run(lambda epoch: None, save)
    return made


def weights(made):
    """All of its parameters and running statistics, in one row."""
    return torch.cat([value.flatten().double() for value in made.both.state_dict().values()])
