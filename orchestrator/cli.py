"""The verbs of `limbeck`. Each parses, calls and answers; what they call is imported when they are used."""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli_artifacts import artifacts
from orchestrator.errors import LimbeckError
from orchestrator.options import (
    AsJson,
    ExperimentPath,
    Fresh,
    JobName,
    Only,
    Overrides,
    Since,
    StoreUri,
    TrackingUri,
)
from orchestrator.places import DEFAULT_STORE

app = typer.Typer(
    name="limbeck",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(artifacts, name="artifacts")


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"limbeck {metadata.version('limbeck')}")
        raise typer.Exit


@app.callback()
def limbeck(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Distil datasets and models on a Ray cluster, every shard exactly once."""


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="[FILE]", help="The file to write.")] = Path("first.yaml"),
    as_json: AsJson = False,
) -> None:
    """Write a first experiment to start from."""
    from orchestrator.verbs import starting

    starting.init(path, as_json)


@app.command()
def run(
    experiment: ExperimentPath,
    overrides: Overrides = None,
    store: StoreUri = DEFAULT_STORE,
    tracking: TrackingUri = None,
    only: Only = None,
    since: Since = None,
    fresh: Fresh = None,
    as_json: AsJson = False,
) -> None:
    """Run what is not cached yet; the same command resumes."""
    from orchestrator.verbs import running

    running.run(experiment, overrides or [], store, tracking, only or [], since, fresh, as_json)


@app.command()
def plan(
    experiment: ExperimentPath,
    overrides: Overrides = None,
    store: StoreUri = DEFAULT_STORE,
    only: Only = None,
    since: Since = None,
    fresh: Fresh = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run would do: shards, resources, time and disk."""
    from orchestrator.verbs import running

    running.plan(experiment, overrides or [], store, only or [], since, fresh, as_json)


@app.command()
def tune(
    experiment: ExperimentPath,
    overrides: Overrides = None,
    store: StoreUri = DEFAULT_STORE,
    tracking: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Search over the experiment's `search` block with Ray Tune; the same command resumes."""
    from orchestrator.verbs import tuning

    tuning.tune(experiment, overrides or [], store, tracking, as_json)


@app.command()
def launch(
    experiment: ExperimentPath,
    overrides: Overrides = None,
    cluster: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A profile, see `limbeck clusters`; or its path.")
    ] = "local",
    store: Annotated[
        str | None,
        typer.Option(
            envvar="LIMBECK_STORE", help="The store as the cluster's nodes see it; the profile's wins."
        ),
    ] = None,
    tracking: TrackingUri = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run it as a job on a cluster; this terminal may be closed."""
    from orchestrator.verbs import launching

    launching.launch(experiment, overrides or [], cluster, store, tracking, dry_run, as_json)


@app.command()
def jobs(as_json: AsJson = False) -> None:
    """List the jobs that were launched, and how they stand."""
    from orchestrator.verbs import watching

    watching.jobs(as_json)


@app.command()
def status(job: JobName, as_json: AsJson = False) -> None:
    """Show how a job stands."""
    from orchestrator.verbs import watching

    watching.status(job, as_json)


@app.command()
def logs(
    job: JobName, follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False
) -> None:
    """Show the output of a job."""
    from orchestrator.verbs import watching

    watching.logs(job, follow)


@app.command()
def stop(job: JobName, as_json: AsJson = False) -> None:
    """Ask a job to end in order; the same launch goes on later."""
    from orchestrator.verbs import watching

    watching.stop(job, as_json)


@app.command()
def clusters(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="Only this one; default: all.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Try to reach them.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the clusters that `launch` knows."""
    from orchestrator.verbs import watching

    watching.clusters(name, check, as_json)


@app.command()
def runs(
    store: StoreUri = DEFAULT_STORE,
    pin: Annotated[str | None, typer.Option(metavar="RUN", help="Keep this run's artifacts.")] = None,
    unpin: Annotated[str | None, typer.Option(metavar="RUN", help="Let them go again.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what has been run; pin a run so that gc spares it."""
    from orchestrator.verbs import keeping

    keeping.runs(store, pin, unpin, as_json)


@app.command()
def report(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN|SEARCH]", help="Id, the start of one, or an experiment."),
    ] = None,
    store: StoreUri = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page of a run or a search, by default of the newest."""
    from orchestrator.verbs import reporting

    reporting.report(run, store, out, as_json)


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List the tasks."""
    from orchestrator.verbs import about

    about.tasks(as_json)


@app.command()
def datasets(as_json: AsJson = False) -> None:
    """List the datasets, and the forms of your own."""
    from orchestrator.verbs import about

    about.datasets(as_json)


@app.command()
def schema(
    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task.")], as_json: AsJson = False
) -> None:
    """Show the settings of a task."""
    from orchestrator.verbs import about

    about.schema(task, as_json)


@app.command()
def doctor(store: StoreUri = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Show what this machine can do, and what it lacks."""
    from orchestrator.verbs import about

    about.doctor(store, as_json)


@app.command()
def ui(
    store: StoreUri = DEFAULT_STORE,
    tracking: TrackingUri = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
) -> None:
    """Serve MLflow's web page over the store, on loopback, until Ctrl-C."""
    from orchestrator.verbs import about

    about.ui(store, tracking, port)


def main() -> None:
    """The command `limbeck`; every error of the user's or ours that we know ends in one message."""
    try:
        app()
    except LimbeckError as error:
        _complain(str(error), error.exit_code, error.answered)
    except SystemExit as leaving:  # typer's own: wrong usage, told already, or Ctrl-C before a run listens
        if leaving.code == 130:
            _complain("interrupted; the same command goes on from here", 130)
        if leaving.code == 2 and "--json" in sys.argv:
            sys.stdout.write(json.dumps({"error": "wrong usage, see standard error", "exit_code": 2}) + "\n")
        raise


def _complain(message: str, code: int, answered: bool = False) -> None:
    for line in message.splitlines():
        sys.stderr.write(f"limbeck: {line}\n")
    if "--json" in sys.argv and not answered:
        answer: dict[str, Any] = {"error": message, "exit_code": code}
        sys.stdout.write(json.dumps(answer) + "\n")
    raise SystemExit(code)
