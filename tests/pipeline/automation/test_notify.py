import http.server
import json
import logging
import socket
import socketserver
import threading

import pytest

from common.errors import InputError
from pipeline.automation.messages import LogFile, Mail, Message, Webhook, notifiers, notify

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
    return f"http://127.0.0.1:{port}/services/SECRET", received, answers


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


def test_the_webhook_gets_json_without_private_lines(webhook, tmp_path):
    address, received, _ = webhook
    assert notify(notifiers({"SCARFORGE_NOTIFY": f"log webhook:{address}"}, tmp_path), MESSAGE) == 2
    (content,) = received
    assert content["subject"] == "regression in fold 0"
    assert content["lines"] == ["infarct: Dice 0.412"]
    assert content["text"].startswith("regression in fold 0\ninfarct: Dice 0.412")
    assert "Case_007" not in json.dumps(content)


def test_mail_reaches_every_receiver_without_private_lines(mail_server, tmp_path):
    port, told = mail_server
    ways = notifiers({"SCARFORGE_NOTIFY": f"smtp://127.0.0.1:{port}?from=a@x.org&to=b@x.org,c@x.org"}, tmp_path)
    assert notify(ways, MESSAGE) == 1
    assert [line for line in told if line.startswith("rcpt TO")] == ["rcpt TO:<b@x.org>", "rcpt TO:<c@x.org>"]
    assert "Subject: ScarForge: regression in fold 0" in told
    assert "infarct: Dice 0.412" in told
    assert not any("Case_007" in line for line in told)


def test_a_password_is_not_sent_to_a_server_without_tls(mail_server, caplog):
    port, told = mail_server
    mail = Mail("127.0.0.1", port, "a@x.org", ("b@x.org",), user="me", password="hunter2")
    assert notify([mail], MESSAGE) == 0
    assert "no TLS" in caplog.text
    assert not any(line.upper().startswith(("AUTH", "MAIL")) for line in told)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_way_that_fails_is_logged_without_its_secret_and_the_next_is_still_told(webhook, tmp_path, caplog):
    address, _, answers = webhook
    answers[0] = 404
    ways = [
        Webhook(address),
        Webhook(f"http://127.0.0.1:{free_port()}/services/SECRET"),
        Webhook("http:///SECRET"),
        Mail("127.0.0.1", free_port(), "a@x.org", ("b@x.org",)),
        LogFile(tmp_path / "file" / "below"),
        LogFile(tmp_path / "log"),
    ]
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert notify(ways, MESSAGE) == 1
    assert (tmp_path / "log").exists()
    assert len(caplog.records) == 5
    assert "answered 404" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("way", [Webhook("https://h/SECRET"), Mail("h", 25, "a@x", ("b@x",), "me", "SECRET")])
def test_secrets_are_in_no_text_form(way):
    assert "SECRET" not in repr(way) + str(way)


@pytest.mark.parametrize(
    "value",
    [
        "pigeon",
        "webhook",
        "webhook:ftp://x",
        "webhook:https://",
        "webhook:http://[::1/SECRET",
        "smtp:",
        "smtp://host",
        "smtp://?to=a@x",
        "smtp://h:x?to=a@x",
    ],
)
def test_an_unknown_or_incomplete_way_names_the_variable(value, tmp_path):
    with pytest.raises(InputError, match="SCARFORGE_NOTIFY"):
        notifiers({"SCARFORGE_NOTIFY": value}, tmp_path)


def test_an_address_without_its_way_is_not_repeated(tmp_path):
    with pytest.raises(InputError, match="SCARFORGE_NOTIFY") as refused:
        notifiers({"SCARFORGE_NOTIFY": "chat.example.org/services/SECRET"}, tmp_path)
    assert "SECRET" not in str(refused.value)


def test_smtps_has_its_own_port_and_the_password_comes_from_the_environment(tmp_path):
    given = {
        "SCARFORGE_NOTIFY": "smtps:mail.x.org?to=b@x.org",
        "SCARFORGE_SMTP_USER": "u",
        "SCARFORGE_SMTP_PASSWORD": "p",
    }
    (mail,) = notifiers(given, tmp_path)
    assert (mail.port, mail.tls_from_start, mail.user, mail.password) == (465, True, "u", "p")
