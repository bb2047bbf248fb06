"""`python -m orchestrator` is `limbeck`."""

from orchestrator.cli import main

main()
