import http.server
import json
import logging
import socket
import socketserver
import threading

import pytest

from common.errors import InputError
from pipeline.automation.messages import LogFile, Message, notifiers, notify

MESSAGE = Message(
    "regression in fold 0", ("infarct: Dice 0.412",), "http://here/runs/1", private=("Case_007 is broken",)
)


@pytest.fixture
def listening():
    """Start a server class in a thread and give its port."""
    servers = []

    def start(handler, kind=socketserver.ThreadingTCPServer):
        server = kind(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def webhook(listening):
    """An address, and what was posted to it; it answers with `answers[0]`."""
    received, answers = [], [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    port = listening(Handler, http.server.ThreadingHTTPServer)
    return f"json://127.0.0.1:{port}/services/SECRET", received, answers


@pytest.fixture
def mail_server(listening):
    """A port, and the lines that a minimal mail server without TLS was told."""
    told = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 here\r\n")
            in_data = False
            for raw in self.rfile:
                line = raw.decode().rstrip("\r\n")
                told.append(line)
                if in_data:
                    if line == ".":
                        in_data = False
                        self.wfile.write(b"250 ok\r\n")
                elif line.upper() == "DATA":
                    in_data = True
                    self.wfile.write(b"354 go on\r\n")
                else:
                    self.wfile.write(b"221 bye\r\n" if line == "QUIT" else b"250 ok\r\n")

    return listening(Handler), told


def test_the_log_file_holds_everything_also_what_stays_on_the_machine(tmp_path):
    assert notify(notifiers({}, tmp_path), MESSAGE) == 1
    assert notify(notifiers({"SCARFORGE_NOTIFY": "log"}, tmp_path), MESSAGE) == 1
    lines = (tmp_path / "notifications.log").read_text().splitlines()
    assert lines[0].endswith("+00:00 regression in fold 0")
    assert [line.strip() for line in lines[1:4]] == ["infarct: Dice 0.412", "http://here/runs/1", "Case_007 is broken"]
    assert len(lines) == 8


def ways(home, *addresses):
    return notifiers({"SCARFORGE_NOTIFY": " ".join(addresses)}, home)


def test_a_webhook_gets_json_without_private_lines(webhook, tmp_path):
    address, received, _ = webhook
    assert notify(ways(tmp_path, "log", address), MESSAGE) == 2
    (content,) = received
    assert content["title"] == "ScarForge: regression in fold 0"
    assert content["message"] == "infarct: Dice 0.412\nhttp://here/runs/1"
    assert "Case_007" not in json.dumps(content)
    assert "Apprise" not in json.dumps(content)


def test_mail_reaches_every_receiver_without_private_lines(mail_server, tmp_path):
    port, told = mail_server
    assert notify(ways(tmp_path, f"mailto://127.0.0.1:{port}?from=a@x.org&to=b@x.org,c@x.org"), MESSAGE) == 1
    assert sorted(line for line in told if line.startswith("rcpt TO")) == ["rcpt TO:<b@x.org>", "rcpt TO:<c@x.org>"]
    assert "Subject: ScarForge: regression in fold 0" in told
    assert any("infarct: Dice 0.412" in line for line in told)
    assert not any("Case_007" in line for line in told)


def test_a_password_is_not_sent_to_a_server_without_tls(mail_server, tmp_path, caplog):
    port, told = mail_server
    for kind in ("mailto", "json"):
        with pytest.raises(InputError, match="address 1 would send its password unencrypted") as refused:
            ways(tmp_path, f"{kind}://me:hunter2@127.0.0.1:{port}?from=a@x.org&to=b@x.org")
        assert "hunter2" not in str(refused.value)
    encrypted = ways(tmp_path, f"mailtos://me:hunter2@127.0.0.1:{port}?from=a@x.org&to=b@x.org")
    assert notify(encrypted, MESSAGE) == 0
    assert "could not be told" in caplog.text
    assert not any(line.upper().startswith(("AUTH", "MAIL")) for line in told)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_way_that_fails_is_logged_without_its_secret_and_the_next_is_still_told(webhook, tmp_path, caplog):
    address, _, answers = webhook
    answers[0] = 404
    failing = ways(
        tmp_path,
        address,
        f"json://127.0.0.1:{free_port()}/services/SECRET",
        f"mailto://127.0.0.1:{free_port()}?from=a@x.org&to=b@x.org&name=SECRET",
    )
    (tmp_path / "file").write_text("in the way")
    logs = [LogFile(tmp_path / "file" / "below"), LogFile(tmp_path / "log")]
    with caplog.at_level(logging.DEBUG):
        assert notify([*failing, *logs], MESSAGE) == 1
    assert (tmp_path / "log").exists()
    said = [record.getMessage() for record in caplog.records if record.name == "scarforge.notify"]
    assert len(said) == 4
    assert said[0] == ("address 1 of SCARFORGE_NOTIFY (JSON) could not be told 'regression in fold 0': answered 404")
    assert "SECRET" not in caplog.text
    assert "SECRET" not in repr(failing) + "".join(map(str, failing))


@pytest.mark.parametrize(
    "value",
    [
        "pigeon",
        "webhook:https://h/SECRET",
        "json://",
        "json://[::1/SECRET",
        "https://hooks.example.org/SECRET",
        "chat.example.org/services/SECRET",
        "smtp://me:SECRET@host?to=a@x",
        "mailto://me:SECRET@host:notaport?to=b",
        "mailto://host?to=a@x.org",
    ],
)
def test_an_unknown_or_incomplete_address_is_told_by_its_number_alone(value, tmp_path, caplog):
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(InputError, match="SCARFORGE_NOTIFY: address 2 is none") as refused,
    ):
        ways(tmp_path, "log", value)
    assert "SECRET" not in str(refused.value) + caplog.text


def test_chat_services_are_found_by_their_own_addresses(tmp_path):
    tokens = "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    found = ways(tmp_path, f"slack://{tokens}", f"https://hooks.slack.com/services/{tokens}")
    assert [way.way.service_name for way in found] == ["Slack", "Slack"]
    assert "TIiajk" not in repr(found) + "".join(map(str, found))
