"""What Slurm is given: one batch script, as plain text."""

import shlex

from clusters.allocation import END_SIGNAL, WORD
from clusters.launcher import Order
from clusters.slurm_profile import Profile
from orchestrator.feasibility import GB

OUTPUT, VARIABLES = "output.txt", "env.sh"
"""In the job's folder: what it says, and the variables of the profile's `env`."""


def script(profile: Profile, order: Order) -> str:
    """What is given to sbatch: it runs on the first node, and starts `clusters.allocation` on each."""
    folder, asked = f"{profile.folder}/{order.id}", profile.resources
    given = {
        "folder": folder, "scratch": profile.scratch, "interface": profile.interface, "nodes": asked.nodes,
        "cpus": int(asked.cpus), "gpus": asked.gpus, "memory": int(asked.memory_gb * GB), "join-s": profile.join_s,
        "retries": profile.retries, "requeues": profile.requeues_at_limit,
    }  # fmt: skip
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    node = [profile.python, "-m", "clusters.allocation", *options, "--"]
    run = [*node, profile.python, "-m", "orchestrator", *order.argv]
    srun = f"srun --nodes={asked.nodes} --ntasks={asked.nodes} --cpus-per-task={int(asked.cpus)} --export=ALL"
    variables = [f". {shlex.quote(f'{folder}/{VARIABLES}')}"] if order.env else []
    return "\n".join([
        "#!/bin/bash -l",
        *_directives(profile, order.id, folder),
        "set -e",
        "umask 077",
        f"rm -f {shlex.quote(f'{folder}/{WORD}')}",
        f"cd {shlex.quote(str(order.working_dir))}",
        *variables,
        *profile.setup.splitlines(),
        "export PYTHONUNBUFFERED=1",
        f"exec {srun} {shlex.join(run)}",
        "",
    ])  # fmt: skip


def _directives(profile: Profile, job: str, folder: str) -> list[str]:
    asked = profile.resources
    whole: dict[str, object] = {
        "job-name": job, "output": f"{folder}/{OUTPUT}", "open-mode": "append", "export": "NONE",
        "partition": profile.partition, "account": profile.account, "qos": profile.qos,
        "constraint": profile.constraint, "nodes": asked.nodes, "ntasks-per-node": 1,
        "cpus-per-task": int(asked.cpus), "mem": f"{-(-asked.memory_gb * GB // 2**20):.0f}M",
        "gres": f"{profile.gres}:{asked.gpus}" if asked.gpus else None, "time": _minutes(profile.time_limit_s),
        "signal": f"{END_SIGNAL.name.removeprefix('SIG')}@{profile.warning_s}",
    }  # fmt: skip
    said = [f"--{name}={value}" for name, value in whole.items() if value is not None]
    said += ["--requeue" if profile.requeue else "--no-requeue", *profile.options]
    return [
        f"#SBATCH {name}{equals}{_quoted(value)}" for name, equals, value in (s.partition("=") for s in said)
    ]


def _minutes(seconds: float | None) -> int | None:
    """Slurm counts whole ones, and rounds up."""
    return None if seconds is None else int(-(-seconds // 60))


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value
