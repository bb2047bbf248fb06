"""The methods. One table: task name to the class that does it, imported when asked for."""

TASKS = {
    "expert_trajectories": "tasks.dataset_distillation.expert_trajectories:ExpertTrajectories",
    "import_trajectories": "tasks.dataset_distillation.import_trajectories:ImportTrajectories",
    "trajectory_matching": "tasks.dataset_distillation.trajectory_matching:TrajectoryMatching",
    "evaluate_distilled": "tasks.dataset_distillation.evaluate_distilled:EvaluateDistilled",
    "loss_sweep": "tasks.ensloss.loss_sweep:LossSweep",
    "distill_lm": "tasks.llm_distillation.distill_lm:DistillLm",
    "import_distilled": "tasks.dataset_distillation.import_distilled:ImportDistilled",
    "soft_labels": "tasks.model_distillation.soft_labels:SoftLabels",
    "distill_student": "tasks.model_distillation.distill_student:DistillStudent",
    "train_teacher": "tasks.model_distillation.train_teacher:TrainTeacher",
    "initial_lm": "tasks.llm_distillation.initial_lm:InitialLm",
    "token_labels": "tasks.llm_distillation.token_labels:LabelTokens",
    "evaluate_lm": "tasks.llm_distillation.evaluate_lm:EvaluateLm",
    "generate_responses": "tasks.llm_distillation.generate_responses:GenerateResponses",
}

DATASETS = {
    "digits": "1,797 grey 8x8 images of 10 digits; bundled with scikit-learn",
    "fashion_mnist": "70,000 grey 28x28 images of 10 kinds of clothing; local IDX files, else downloaded",
    "cifar10": "60,000 colour 32x32 images of 10 classes; local binary or npz files, else downloaded",
    "cifar100": "60,000 colour 32x32 images of 100 classes; local binary files, else downloaded",
    "npz": "your own: train and test name .npz files with `images` (N,H,W[,C]) uint8 and `labels`",
    "parquet": "your own: train and test name Parquet files as Hugging Face writes them, encoded images and a label",
    "idx": "your own: train and test name IDX image files, plain or gz, each with its labels file beside it",
    "image_folder": "your own: train and test name folders with one subfolder of images a class",
}

TWO_CLASS_DATASETS = {
    "breast_cancer": "569 rows of 30 numbers; bundled with scikit-learn",
    "wine": "178 rows of 13 numbers, 3 classes; bundled with scikit-learn; `positive` names those of +1",
    "digits": "1,797 rows of 64 pixels, 10 classes; bundled with scikit-learn; `positive` names those of +1",
    "iris": "150 rows of 4 numbers, 3 classes; bundled with scikit-learn; `positive` names those of +1",
    "table": "your own: path names a Parquet or CSV file with a `target` column",
    "openml": "a dataset of openml.org by its `id`; local Parquet file, else downloaded",
    "image_pair": "the images of two `classes` of an image dataset, `images`",
}
"""For `datasets` of loss_sweep."""
