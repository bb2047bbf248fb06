"""What an MLflow holds, by our names, for tests that compare."""


def snapshot(client):
    """Everything MLflow has, by our names: what must be the same however often it was sent."""
    found = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            name = (run.data.tags.get("limbeck.run_id"), run.data.tags.get("limbeck.stage"))
            assert name not in found, f"{name} is there twice"
            history = {key: points(client, run.info.run_id, key) for key in run.data.metrics}
            inputs = [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs]
            found[name] = {
                "experiment": experiment.name,
                "metrics": history,
                "params": run.data.params,
                "tags": {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"},
                "status": run.info.status,
                "times": (run.info.start_time, run.info.end_time),
                "inputs": inputs,
                "files": sorted(files(client, run.info.run_id)),
            }
    return found


def points(client, run_id, key):
    return [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, key)]


def files(client, run_id, below=None):
    for entry in client.list_artifacts(run_id, below):
        if entry.is_dir:
            yield from files(client, run_id, entry.path)
        else:
            yield entry.path, entry.file_size


def runs_of(client, experiment="digits"):
    known = client.get_experiment_by_name(experiment)
    runs = client.search_runs([known.experiment_id], max_results=1000, order_by=["attributes.start_time ASC"])
    return {run.data.tags.get("limbeck.stage", ""): run for run in runs}
