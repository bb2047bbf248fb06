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
}  # fmt: skip
