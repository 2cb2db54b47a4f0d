"""MLflow's store in PostgreSQL: its tables are made once, by one process, before any step writes to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from imaging.errors import InputError

_LOCK = 5_417_226_273  # any number: those who make MLflow's tables at the same time agree on it


def prepare_postgres(uri: str) -> None:
    """Create MLflow's tables in an empty database.

    Raises:
        InputError: The driver is not installed, the database does not answer, or another MLflow wrote it.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    shown = make_url(uri).render_as_string(hide_password=True)
    try:
        with _engine(uri) as (utils, engine):
            _create_or_compare(utils, engine, shown)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{shown} needs {error.name}; pip install 'scarforge[postgres]' and write postgresql+psycopg2://…"
        ) from error
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{shown}: cannot be used as MLflow's store ({reason}); check that PostgreSQL runs, that the database "
            "exists (createdb) and that this user owns it"
        ) from error


@contextmanager
def _engine(uri: str) -> Iterator[tuple[Any, Any]]:
    from mlflow.store.db import utils
    from sqlalchemy import create_engine

    engine = create_engine(uri)  # MLflow's own would try a database that is down for minutes
    try:
        yield utils, engine
    finally:
        engine.dispose()


def _create_or_compare(utils: Any, engine: Any, shown: str) -> None:
    from sqlalchemy import text

    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": _LOCK})  # freed with the connection
        if utils._is_empty_database(engine):
            utils._initialize_tables(engine)
            return
        found, ours = utils._get_schema_version(engine), utils._get_latest_schema_revision()
    if found != ours:
        raise InputError(
            f"{shown}: was written by another MLflow (schema {found}, here {ours}); save a copy (pg_dump), then "
            "`mlflow db upgrade` with this address, or install the MLflow that wrote it"
        )
