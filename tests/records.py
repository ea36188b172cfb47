"""What a run has recorded."""

import json


def results(run):
    """The records of a run's directory, finished or not."""
    return [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
