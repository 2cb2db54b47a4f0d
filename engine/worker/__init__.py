"""The process that trains, started by an asset through Dagster Pipes."""
