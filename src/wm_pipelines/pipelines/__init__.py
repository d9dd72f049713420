"""Kedro pipelines: wiring and thin nodes. The work is done on the floors below."""
