"""Passwords and keys in addresses and variables: in no message, no log, no link."""

import logging
from pathlib import Path

import pytest

from common.errors import InputError
from engine.remote import ObjectStore
from engine.tracking.publish import replay
from engine.tracking.store import prepare_store, shown, tracking_places
from engine.tracking.tracker import Tracker
from pipeline.automation.messages import Message, notifiers, notify
from pipeline.services.dagster_home import prepare_dagster_home
from pipeline.services.guard import Address, door_of
from tests.mlflow_stores import told

SECRET = "planted-Zq7vT2"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (f"postgresql+psycopg2://ada:{SECRET}@db:5432/mlflow", "postgresql+psycopg2://db:5432/mlflow"),
        (f"postgresql://ada:@{SECRET}/@db/mlflow?sslmode=require", "postgresql://db/mlflow"),
        (f"https://ada:{SECRET}@mlflow.example.org/", "https://mlflow.example.org/"),
        (f"postgresql://db/mlflow?password={SECRET}", "postgresql://db/mlflow"),
        (f"no answer from 'http://a:{SECRET}@h:1/x' (again)", "no answer from 'http://h:1/x' (again)"),
        ("sqlite:////home/ada@lab/mlflow.db", "sqlite:////home/ada@lab/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str, expected: str):
    assert shown(address) == expected


@pytest.mark.parametrize(
    "uri",
    [f"postgres://ada:{SECRET}@db/mlflow", f"mongodb://ada:{SECRET}@db", f"postgresql://a:{SECRET}@127.0.0.1:9/m"],
)
def test_a_store_that_cannot_be_used_is_named_without_its_password(uri: str):
    with pytest.raises(InputError) as refused:
        prepare_store(uri)
    assert SECRET not in str(refused.value)


def test_a_server_that_is_away_is_named_without_its_password(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    uri = f"http://ada:{SECRET}@127.0.0.1:9"
    with caplog.at_level(logging.DEBUG):
        with Tracker.of(told(tmp_path, "k", uri=uri)) as tracker:
            tracker.progress(1)
        assert replay(tracking_places(tmp_path, {"MLFLOW_TRACKING_URI": uri})) == 0
    assert "is not available" in caplog.text
    assert SECRET not in caplog.text
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "way",
    [f"json://127.0.0.1:9/{SECRET}", f"mailtos://ada:{SECRET}@127.0.0.1:9?from=a@x.org&to=b@x.org&mode=starttls"],
)
def test_a_message_that_cannot_be_sent_is_told_without_secrets(
    tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.DEBUG):
        assert notify(notifiers({"SCARFORGE_NOTIFY": way}, tmp_path), Message("night ended")) == 0
    assert "could not be told" in caplog.text
    assert SECRET not in caplog.text


def test_settings_that_are_wrong_are_told_without_secrets(tmp_path: Path):
    wrong = (
        lambda: notifiers({"SCARFORGE_NOTIFY": f"https://hooks.test/{SECRET}"}, tmp_path),
        lambda: notifiers({"SCARFORGE_NOTIFY": f"mailto://a:{SECRET}@host:notaport?to=b"}, tmp_path),
        lambda: prepare_dagster_home(tmp_path, {"SCARFORGE_DAGSTER_POSTGRES": f"postgres://a:{SECRET}@db/d"}),
        lambda: ObjectStore(f"nosuch://key:{SECRET}@bucket/prefix"),
        lambda: door_of(Address(3000, password_file=short(tmp_path))),
    )
    for setting in wrong:
        with pytest.raises(InputError) as refused:
            setting()
        assert SECRET not in str(refused.value)


def short(folder: Path) -> Path:
    path = folder / "password"
    path.touch(0o600)
    path.write_text(f"{SECRET}\n")
    return path
