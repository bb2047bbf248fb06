"""What a benchmark ends with."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def figures(script: str, *arguments: str) -> tuple[Any, str]:
    """Runs a script of benchmarks/ to its end: the JSON of its last line, and all that it printed."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1]), done.stdout
