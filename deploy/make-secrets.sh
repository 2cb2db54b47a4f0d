#!/bin/sh
# Makes deploy/secrets/: the databases' password and addresses, and the people who may enter.
#   deploy/make-secrets.sh NAME...     asks for a password of each; a name that is there is replaced
# The folder is closed to others; the files in it can be read by the processes of the containers, whoever these are.
set -eu
[ "$#" -gt 0 ] || { echo "usage: deploy/make-secrets.sh NAME..." >&2; exit 2; }
folder=${SECRETS:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 0700 "$folder"
umask 022
# psycopg2 by name: SQLAlchemy 2.1 takes plain postgresql:// for another driver.
if [ ! -s "$folder/postgres_password" ]; then
    password=$(openssl rand -hex 24)
    printf %s "$password" >"$folder/postgres_password"
    for name in dagster mlflow; do
        printf %s "postgresql+psycopg2://scarforge:$password@postgres:5432/$name" >"$folder/${name}_database"
    done
fi
touch "$folder/passwords"
for name in "$@"; do
    case "$name" in *:* | "") echo "$name: no name of a person" >&2; exit 2 ;; esac
    hash=$(openssl passwd -6) # SHA-512, asked for twice on a terminal
    awk -F: -v name="$name" '$1 != name' "$folder/passwords" >"$folder/passwords.new"
    printf '%s:%s\n' "$name" "$hash" >>"$folder/passwords.new"
    mv "$folder/passwords.new" "$folder/passwords"
done
