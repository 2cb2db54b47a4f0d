"""The decision as a table, the application that holds to it, and who may be let in from other machines."""

import asyncio
import base64
from pathlib import Path

import pytest

from common.errors import InputError
from pipeline.services.guard import Address, Asked, Door, Guard, door_of, read_password
from tests.foreign_requests import Foreign, foreign_requests

PORT = 3000
OWN = "http://127.0.0.1:3000"
DOOR = door_of(Address(PORT))
JSON = {"content-type": "application/json"}
CLICK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FOREIGN = foreign_requests("http://localhost:8888")


def asked(path="/", method="GET", websocket=False, host="127.0.0.1:3000", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Asked(path, {"host": host, **named}, method, websocket)


def status(request: Asked, door: Door = DOOR) -> int:
    refusal = door.refusal(request)
    return refusal.status if refusal else 200


@pytest.mark.parametrize("attack", FOREIGN, ids=[attack.name for attack in FOREIGN])
def test_what_a_foreign_page_has_a_browser_send_is_refused(attack: Foreign):
    host = f"{attack.host or '127.0.0.1'}:{PORT}"
    request = Asked(attack.path.partition("?")[0], {"host": host, **attack.headers}, attack.method, attack.websocket)
    assert status(request) == (421 if attack.host else 403)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked("/runs", host="localhost:3000"), 200),
        (asked("/runs", host="LOCALHOST:3000"), 200),
        (asked("/runs", host="[::1]:3000"), 200),
        (asked("/runs", host="localhost"), 421),
        (asked("/runs", host="localhost:3001"), 421),
        (asked("/runs", host="localhost.:3000"), 421),
        (asked("/runs", host="evil.test@localhost:3000"), 421),
        (asked("/runs", host="127.0.0.1:3000, evil.test"), 421),
        (asked("/runs", host=""), 421),
        (asked("/runs", origin=OWN), 200),
        (asked("/runs", origin="http://localhost:3000"), 200),
        (asked("/runs", origin="https://localhost:3000"), 403),
        (asked("/runs", origin="http://127.0.0.1"), 403),
        (asked("/runs", origin="http://127.0.0.1:5000"), 403),
        (asked("/runs", origin=f"{OWN}.evil.test"), 403),
        (asked("/runs", origin=""), 403),
        (asked("/runs", sec_fetch_site="none"), 200),
        (asked("/runs", sec_fetch_site="same-site"), 403),
        (asked("/runs", **CLICK), 200),
        (asked("/runs", "HEAD", **CLICK), 403),
        (asked("/ajax-api/2.0/mlflow/get-artifact", **CLICK), 403),
        (asked("/graphql", "POST", **JSON), 200),
        (asked("/graphql", "POST", content_type="Application/JSON; charset=utf-8"), 200),
        (asked("/graphql", "POST", origin=OWN, sec_fetch_site="same-origin", **JSON), 200),
        (asked("/graphql", "PUT", **JSON), 403),
        (asked("/graphql\n"), 403),
        (asked("/graphql/"), 403),
        (asked("/assets/graphql"), 200),
        (asked("/graphql", websocket=True, origin=OWN), 200),
        (asked("/graphql", websocket=True), 403),
        (asked("/api/2.0/mlflow/runs/create", "POST"), 200),  # a training
        (asked("/api/2.0/mlflow-artifacts/artifacts/0/model", "PUT", content_type="application/octet-stream"), 200),
        (asked("/ajax-api/2.0/mlflow/runs/search", "POST", origin=OWN, sec_fetch_site="same-origin"), 200),
    ],
    ids=lambda value: f"{value.method} {value.path!r} {dict(value.headers)}" if isinstance(value, Asked) else None,
)
def test_the_decision(request_: Asked, expected: int):
    assert status(request_) == expected


def test_a_refusal_names_what_was_refused():
    refusal = DOOR.refusal(asked(origin="http://evil.test"))
    assert refusal is not None
    assert refusal.reason == "requests from the origin 'http://evil.test' are refused"


def test_the_usual_port_is_left_out_as_browsers_do():
    door = door_of(Address(80))
    assert status(asked(host="localhost", origin="http://localhost"), door) == 200
    assert status(asked(host="localhost:80"), door) == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_loopback_needs_no_password(host: str):
    assert door_of(Address(PORT, host)).password == ""


@pytest.mark.parametrize("host", ["192.168.1.5", "fd00::5", "hospital.example.org"])
def test_what_others_reach_needs_a_password_or_a_proxy(host: str, password_file: Path):
    with pytest.raises(InputError, match=r"other machines reach it.*--password-file FILE, or --behind-proxy HOST"):
        door_of(Address(PORT, host))
    assert door_of(Address(PORT, host, ("dagster.example.org",))).password == ""
    door = door_of(Address(PORT, host, password_file=password_file))
    named = f"[{host}]:3000" if ":" in host else f"{host}:3000"
    assert door.hosts == {named}
    assert door.origins == {f"http://{named}"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "", "*"])
def test_every_network_at_once_is_no_name(host: str, password_file: Path):
    with pytest.raises(InputError, match="no name that a browser asks for"):
        door_of(Address(PORT, host, password_file=password_file))


def test_a_proxy_passes_on_its_own_name_only():
    door = door_of(Address(PORT, proxied=("Dagster.example.org",)))
    proxied = asked(host="dagster.example.org", origin="https://dagster.example.org")
    assert status(proxied, door) == 200
    assert status(proxied) == 421
    assert status(asked(host="dagster.example.org", origin="https://evil.test"), door) == 403
    assert status(asked(host="127.0.0.1:3000"), door) == 200  # programs beside it


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("ada:lovely secret: ü\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def test_a_password_is_asked_for_only_of_those_who_may_come(password_file: Path):
    door = door_of(Address(PORT, password_file=password_file))

    def login(text: str) -> dict[str, str]:
        return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    assert status(asked(), door) == 401
    assert status(asked(**login("ada:lovely secret: ü")), door) == 200
    for wrong in ("ada:lovely secret", "eve:lovely secret: ü", "", "ada:"):
        assert status(asked(**login(wrong)), door) == 401
    assert status(asked(authorization="Bearer ada"), door) == 401
    assert status(asked(origin="http://evil.test", **login("ada:lovely secret: ü")), door) == 403
    assert status(asked("/graphql", websocket=True, origin=OWN), door) == 401
    assert "lovely" not in repr(door)


@pytest.mark.parametrize("text", ["", "ada", ":a long password", "ada:short", "ada:long enough once\neve:and again"])
def test_a_password_file_that_says_something_else_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(InputError, match=r"expected one line NAME:PASSWORD") as refused:
        read_password(path)
    assert not text or text not in str(refused.value)


def test_a_password_file_that_others_may_read_is_refused(password_file: Path, tmp_path: Path):
    password_file.chmod(0o640)
    with pytest.raises(InputError, match=r"others may read it \(-rw-r-----\); run chmod 600"):
        read_password(password_file)
    with pytest.raises(InputError, match=r"absent: cannot be read"):
        read_password(tmp_path / "absent")


def exchange(scope: dict) -> list[dict]:
    """Return what the guard sends in answer to one request to an application that says yes to all."""
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "websocket.connect"}

    async def send(message: dict) -> None:
        sent.append(message)

    async def welcoming(scope, receive, send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Frame-Options", b"DENY")]})
            await send({"type": "http.response.body", "body": b"inside"})

    asyncio.run(Guard(welcoming, DOOR)(scope, receive, send))
    return sent


def scope(kind="http", path="/", **headers: str) -> dict:
    raw = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:3000", **headers}.items()]
    return {"type": kind, "path": path, "headers": raw, "method": "GET"}


def test_what_may_pass_reaches_the_application_and_keeps_out_of_foreign_frames():
    start, body = exchange(scope())
    assert body["body"] == b"inside"
    assert dict(start["headers"]) == {
        b"X-Frame-Options": b"DENY",  # the application's own
        b"x-content-type-options": b"nosniff",
        b"cross-origin-resource-policy": b"same-origin",
    }


def test_what_is_refused_never_reaches_it():
    start, body = exchange(scope(Origin="http://evil.test"))
    assert start["status"] == 403
    assert dict(start["headers"])[b"x-frame-options"] == b"SAMEORIGIN"
    assert b"inside" not in body["body"]
    (closed,) = exchange(scope("websocket", "/graphql", origin="http://evil.test"))
    assert closed["type"] == "websocket.close"
    assert exchange(scope("websocket", "/graphql", origin=OWN)) == [{"type": "websocket.accept"}]


def test_two_values_of_a_header_are_none_of_ours():
    twice = scope(origin=OWN)
    twice["headers"].append((b"Origin", b"http://evil.test"))
    assert exchange(twice)[0]["status"] == 403
