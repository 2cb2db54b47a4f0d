#!/bin/sh
# Runs once, on an empty volume, as the database's owner: one database for Dagster, one for MLflow.
set -eu
for name in dagster mlflow; do
    createdb --username "$POSTGRES_USER" "$name"
done
