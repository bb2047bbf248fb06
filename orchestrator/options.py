"""The arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

ExperimentPath = Annotated[Path, typer.Argument(metavar="EXP", help="Path of the experiment's YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[a.b=c ...]", help="Settings to change, as experts.epochs=5.")
]
StoreUri = Annotated[
    str,
    typer.Option(
        "--store", envvar="LIMBECK_STORE", help="Where what is made is kept: a folder, or s3://BUCKET/PREFIX."
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking", envvar="LIMBECK_TRACKING", help="MLflow URI; default: SQLite in the store."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON value on standard output.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="STAGE", help="Run just this stage; again: and this one."),
]
Since = Annotated[
    str | None, typer.Option("--from", metavar="STAGE", help="Run this stage and those after it.")
]
Fresh = Annotated[
    str | None, typer.Option("--fresh", metavar="STAGE", help="Make this stage and those after it anew.")
]
ArtifactName = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="Id or the start of it, a stage, or experiment/stage.")
]
JobName = Annotated[str, typer.Argument(metavar="ID", help="Id of the job, or the start of it.")]
