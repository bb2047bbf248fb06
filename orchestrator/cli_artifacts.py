"""The verbs of `limbeck artifacts`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.options import ArtifactName, AsJson, StoreUri
from orchestrator.places import DEFAULT_STORE

artifacts = typer.Typer(help="What has been made, from what, is it intact.", no_args_is_help=True)


class Layout(StrEnum):
    """How an export is laid out."""

    FILES = "files"
    HUB = "hub"


Where = Annotated[
    list[str] | None,
    typer.Option(metavar="METRIC>NUMBER", help="Only where that holds, as 'scores.distilled_accuracy>0.9'."),
]
Tagged = Annotated[list[str] | None, typer.Option(help="Only what has this tag; again: and this one.")]
Sort = Annotated[
    str, typer.Option(metavar="FIELD", help="made, size, shards, stage, kind, task, or a metric.")
]


@artifacts.command("ls")
def ls(
    store: StoreUri = DEFAULT_STORE,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    task: Annotated[str | None, typer.Option(help="Only what this task made.")] = None,
    tag: Tagged = None,
    where: Where = None,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only what was made since: 2026-11-26, 12h, 3d.")
    ] = None,
    sort: Sort = "made",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[int | None, typer.Option(help="The first so many.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """List artifacts, newest first."""
    from orchestrator.selection import Selection
    from orchestrator.verbs import browsing

    selection = Selection.parsed(
        kind=kind, task=task, tags=tag or [], where=where or [], since=since, sort=sort, reverse=reverse,
        limit=limit,
    )  # fmt: skip
    browsing.ls(store, selection, as_json)


@artifacts.command("show")
def show(artifact: ArtifactName, store: StoreUri = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show one artifact: settings, facts, metrics, files, and a look into it."""
    from orchestrator.verbs import browsing

    browsing.show(artifact, store, as_json)


@artifacts.command("lineage")
def lineage(artifact: ArtifactName, store: StoreUri = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show from what it was made, down to data and commit, and what was made of it."""
    from orchestrator.verbs import browsing

    browsing.lineage(artifact, store, as_json)


@artifacts.command("diff")
def diff(
    artifact: ArtifactName, other: ArtifactName, store: StoreUri = DEFAULT_STORE, as_json: AsJson = False
) -> None:
    """Show in what two artifacts, and what they were made from, differ."""
    from orchestrator.verbs import browsing

    browsing.diff(artifact, other, store, as_json)


@artifacts.command("tag")
def tag(
    artifact: ArtifactName,
    tags: Annotated[list[str] | None, typer.Argument(metavar="[TAG ...]", help="None: list them.")] = None,
    store: StoreUri = DEFAULT_STORE,
    remove: Annotated[bool, typer.Option("--remove", help="Take them off.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put tags on an artifact; gc spares what has one."""
    from orchestrator.verbs import browsing

    browsing.tag(artifact, tags or [], store, remove, as_json)


@artifacts.command("verify")
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[ARTIFACT ...]", help="Default: all.")] = None,
    store: StoreUri = DEFAULT_STORE,
    repair: Annotated[
        bool, typer.Option(help="Drop what is broken, so that the next run makes just that again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hash everything again and compare; exit code 1 where something is broken."""
    from orchestrator.verbs import keeping

    keeping.verify(names or [], store, repair, as_json)


@artifacts.command("export")
def export(
    artifact: ArtifactName,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    store: StoreUri = DEFAULT_STORE,
    layout: Annotated[
        Layout, typer.Option("--as", help="files: as they are; hub: a dataset or model for Hugging Face.")
    ] = Layout.FILES,
    as_json: AsJson = False,
) -> None:
    """Copy an artifact, with a README that has its lineage, into a folder."""
    from orchestrator.verbs import keeping

    keeping.export(artifact, folder, store, layout is Layout.HUB, as_json)


@artifacts.command("gc")
def gc(
    store: StoreUri = DEFAULT_STORE,
    apply: Annotated[bool, typer.Option("--apply", help="Really remove; without it only a report.")] = False,
    keep: Annotated[int, typer.Option(help="Newest runs of each experiment to keep.", min=0)] = 1,
    as_json: AsJson = False,
) -> None:
    """Remove what no kept run needs."""
    from orchestrator.verbs import keeping

    keeping.gc(store, apply, keep, as_json)
