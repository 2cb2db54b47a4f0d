"""PostgreSQL from Debian's packages, started on loopback in a folder of its own."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.local_ray import free_port

PASSWORD = "it's 100% secret?"  # characters that an address has to write as %xx


@dataclass(frozen=True)
class Postgres:
    """A server, and the addresses of its databases."""

    port: int

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://scarforge:it%27s%20100%25%20secret%3F@127.0.0.1:{self.port}/{database}"

    def rows(self, database: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with contextlib.closing(self._connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            found = cursor.fetchall()
            connection.commit()
            return found

    def create(self, database: str) -> str:
        with contextlib.closing(self._connect("postgres")) as connection:
            connection.autocommit = True  # no database is created inside a transaction
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {database}")
        return self.url(database)

    def _connect(self, database: str) -> Any:
        import psycopg2  # `make test` collects this folder without the extra `cluster`

        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user="scarforge", password=PASSWORD, dbname=database, connect_timeout=10
        )


@contextlib.contextmanager
def local_postgres() -> Iterator[Postgres]:
    """Make an empty server with a password, give it, and end it."""
    folder = Path(tempfile.mkdtemp(prefix="pg_", dir="/tmp"))  # short: it holds a socket
    user = _ordinary_user()
    secret, data = folder / "password", folder / "data"
    secret.write_text(PASSWORD)
    for path in (folder, secret):
        shutil.chown(path, user)
    own = ["-D", str(data), "-U", "scarforge", "-A", "scram-sha-256", "--pwfile", str(secret), "--no-sync"]
    made = subprocess.run([program("initdb"), *own], user=_switch(user), cwd=folder, capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
    server = Postgres(free_port())
    command = [program("postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(server.port), "-k", str(folder)]
    command += ["-c", "fsync=off"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            user=_switch(user),
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_it_answers(process, server, folder / "server.log")
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast way to end
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, which Debian keeps out of `PATH`."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    found = str(debian[-1]) if debian else shutil.which(name)
    if not found:
        raise RuntimeError(f"{name} is neither in /usr/lib/postgresql/*/bin nor in PATH: apt-get install postgresql")
    return found


def _ordinary_user() -> str:
    """Return who may run the server: PostgreSQL refuses to run as root."""
    if os.getuid():
        return pwd.getpwuid(os.getuid()).pw_name
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _switch(user: str) -> str | None:
    return user if os.getuid() == 0 else None


def _wait_until_it_answers(process: subprocess.Popen[bytes], server: Postgres, log: Path) -> None:
    import psycopg2

    give_up = time.monotonic() + 120
    while True:
        with contextlib.suppress(psycopg2.OperationalError):
            server.rows("postgres", "SELECT 1")
            return
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.2)
