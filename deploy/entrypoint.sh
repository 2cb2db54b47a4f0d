#!/bin/sh
# Compose hands secrets over as files, the programs read variables: NAME_FILE=/run/secrets/x becomes NAME.
set -eu
for name in SCARFORGE_DAGSTER_POSTGRES SCARFORGE_NOTIFY \
    MLFLOW_BACKEND_STORE_URI AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
    eval "file=\${${name}_FILE:-}"
    if [ -n "$file" ]; then
        [ -r "$file" ] || { echo "entrypoint: ${name}_FILE=$file cannot be read" >&2; exit 1; }
        value=$(cat "$file")
        export "$name=$value"
        unset "${name}_FILE"
    fi
done
exec "$@"
