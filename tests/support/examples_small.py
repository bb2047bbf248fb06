"""The examples, each with overrides that make it small enough for a test."""

CIFAR10_SMALL = "CIFAR10_SMALL"
"""Stands for a dataset of the first images of CIFAR-10."""
SMALL = {
    "digits.yaml": [
        "experts.experts=2", "experts.epochs=3", "distilled.iterations=4", "distilled.max_start_epoch=1",
        "distilled.student_steps=3", "scores.repeats=1", "scores.epochs=3", "scores.full_epochs=1",
    ],
    "tour.yaml": [
        "experts.experts=2", "experts.epochs=3", "distilled.iterations=4", "distilled.max_start_epoch=1",
        "distilled.student_steps=3", "distilled.matrix.images_per_class=[1]", "scores.repeats=1", "scores.epochs=3",
        "scores.controls=[random]", "teacher.epochs=1", "labels.epochs=1", "students.repeats=1", "students.epochs=1",
        "students.methods=[control, kd]", "reader.epochs=0.02", "kept.corpus.split=[0, 0.01]",
        "pupil.corpus.split=[0, 0.01]", "pupil.held_out=4", "reading.corpus.split=[0.99, 1]",
        "sweep.repeats=1", "sweep.stack=1", "sweep.epochs=1", "sweep.test_every=1", "sweep.losses=[ensloss, bce]",
        "sweep.datasets=[breast_cancer]",
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
    "tune_lm.yaml": [
        "search.trials=2", "teacher.corpus.split=[0, 0.01]", "labels.corpus.split=[0, 0.01]",
        "student.corpus.split=[0, 0.01]", "student.held_out=2", "student.on_policy.sampling.new_tokens=2",
    ],
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
    "digits_students.yaml": [
        "teacher.epochs=1", "labels.epochs=1", "students.repeats=1", "students.epochs=1",
        "students.methods=[control, kdpp, dhkd]",
    ],
    "cifar10_students.yaml": [
        f"labels.dataset={CIFAR10_SMALL}", f"students.dataset={CIFAR10_SMALL}", "labels.epochs=1",
        "students.repeats=1", "students.epochs=1", "students.methods=[control, kdpp]", "students.bf16=false",
    ],
    "gpu/cifar100_students.yaml": [
        "teacher.dataset=digits", "labels.dataset=digits", "students.dataset=digits", "teacher.resources.gpus=0",
        "labels.resources.gpus=0", "students.resources.gpus=0", "teacher.classifier=cifar_resnet8",
        "teacher.epochs=1", "labels.epochs=1", "students.epochs=1", "students.repeats=1",
        "students.resources.workers=2", "students.student=cifar_resnet8", "students.methods=[distpp, fitnet]",
    ],
    "lm_quick.yaml": [
        "teacher.corpus.split=[0, 0.01]", "students.corpus.split=[0, 0.01]", "scores.corpus.split=[0.99, 1]",
        "teacher.held_out=2", "students.held_out=2", "students.matrix.objective=[jsd]", "teacher.epochs=0.5",
        "students.epochs=0.5", "students.resources={ranks: 2}",
    ],
    "smollm2.yaml": [
        "labels.corpus.rows=3", "student.corpus.rows=3", "scores.corpus.rows=2", "labels.length=64",
        "student.length=64", "scores.length=64", "student.batch=2", "student.epochs=1", "student.held_out=1",
        "student.student.layers=1", "scores.before.layers=1", "student.resources.ranks=1", "scores.prompts=1",
        "scores.sampling.new_tokens=2",
    ],
    "gpu/smollm2.yaml": [
        "labels.corpus.rows=3", "student.corpus.rows=3", "scores.corpus.rows=2", "labels.length=64",
        "student.length=64", "scores.length=64", "student.student.layers=1", "scores.before.layers=1",
        "student.batch=2", "student.epochs=1", "student.held_out=1", "student.matrix.objective=[skew_kl]",
        "scores.prompts=0", "labels.teacher=smollm2_135m_instruct", "student.teacher=smollm2_135m_instruct",
        "scores.teacher=smollm2_135m_instruct", "student.precision=fp32", "labels.resources.gpus=0",
        "student.resources.gpus=0", "scores.resources.gpus=0",
    ],
}  # fmt: skip
NEEDS = {
    "fashion_mnist.yaml": ["fashion_mnist"],
    "ensloss_tables.yaml": ["tabular_binary"],
    "gpu/ensloss_paper.yaml": ["cifar10"],
    "cifar10_students.yaml": ["cifar10", "cifar_resnets"],
    "lm_quick.yaml": ["lm_stories260k"],
    "tune_lm.yaml": ["lm_stories260k"],
    "smollm2.yaml": ["smollm2_135m_instruct", "gsm8k"],
    "gpu/smollm2.yaml": ["smollm2_135m_instruct", "gsm8k"],
}
"""What has to lie in the data folder."""
SHARED = {"tune_digits.yaml": 1, "tune_ensloss.yaml": 0, "tune_lm.yaml": 2}
"""Shards that the second of two trials finds made by the first."""
