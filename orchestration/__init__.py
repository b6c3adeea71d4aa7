"""The Dagster side: dvc.yaml as assets, checks, jobs, a schedule and a sensor."""
