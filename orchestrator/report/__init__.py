"""One HTML page of a run, from what its artifacts and records carry. Knows no method by name."""
