"""The examples, each with overrides that make it small enough for a test."""

SMALL = {
    "digits.yaml": [
        "experts.experts=2", "experts.epochs=3", "distilled.iterations=4", "distilled.max_start_epoch=1",
        "distilled.student_steps=3", "scores.repeats=1", "scores.epochs=3", "scores.full_epochs=1",
    ],
    "fashion_mnist.yaml": [
        "experts.experts=1", "experts.network.width=4", "experts.epochs=1", "experts.batch_size=2048",
        "distilled.iterations=2", "distilled.max_start_epoch=1", "distilled.student_steps=2",
        "distilled.expert_epochs=1", "scores.repeats=1", "scores.epochs=2", "scores.controls=[random]",
    ],
    "tune_digits.yaml": [
        "search.trials=2", "experts.experts=1", "experts.epochs=2", "distilled.iterations=3",
        "distilled.max_start_epoch=1", "scores.repeats=1", "scores.epochs=2",
    ],
    "tune_ensloss.yaml": ["search.trials=2", "sweep.repeats=1", "sweep.epochs=2", "sweep.test_every=1"],
    "ensloss_quick.yaml": ["sweep.repeats=2", "sweep.stack=2", "sweep.epochs=2"],
    "ensloss_tables.yaml": [
        "sweep.datasets=[{name: table, path: tabular_binary/sonar.parquet}]",
        "sweep.networks=[{name: tabular_mlp, depth: 1, width: 8}]", "sweep.repeats=2", "sweep.epochs=2",
    ],
    "gpu/ensloss_paper.yaml": [
        "tables.datasets=[breast_cancer]", "tables.networks=[{name: tabular_mlp, depth: 5, width: 8}]",
        "tables.resources.gpus=0", "tables.repeats=1", "tables.epochs=1", "tables.stack=2",
        "cifar2.datasets=[{name: image_pair, images: cifar10, classes: [cat, dog], rows: 60}]",
        "cifar2.networks=[{name: mobilenet, width: 2}]", "cifar2.resources.gpus=0", "cifar2.repeats=1",
        "cifar2.epochs=1", "cifar2.stack=2",
    ],
}  # fmt: skip
NEEDS = {
    "fashion_mnist.yaml": "fashion_mnist",
    "ensloss_tables.yaml": "tabular_binary",
    "gpu/ensloss_paper.yaml": "cifar10",
}
"""What has to lie in the data folder."""
