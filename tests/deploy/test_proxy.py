"""The real nginx with the real configuration, in front of an upstream that tells what reached it."""

import base64
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.foreign_requests import foreign_requests

DEPLOY = Path(__file__).parents[2] / "deploy"
DAGSTER, MLFLOW = "dagster.localhost", "mlflow.localhost"
PASSWORD = {"Authorization": "Basic " + base64.b64encode(b"ada:secret").decode()}
WEBSOCKET = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}
CLICK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
JSON = {"Content-Type": "application/json"}

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("openssl")), reason="needs nginx and openssl"),
]


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.wfile.write(self.rfile.readline())
            self.close_connection = True
            return
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"upstream": self.server.name, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_OPTIONS = do_GET

    def log_message(self, *_):
        pass


class Proxy:
    def __init__(self, folder):
        self.port, self.tls_port = free_port(), free_port()
        self.upstreams = [self._upstream(name) for name in ("dagster", "mlflow")]
        hashed = subprocess.run(["openssl", "passwd", "-6", "secret"], capture_output=True, text=True, check=True)
        (folder / "passwords").write_text(f"ada:{hashed.stdout}")
        self._tls(folder)
        template = (DEPLOY / "nginx/scarforge.conf.template").read_text()
        (folder / "scarforge.conf").write_text(
            re.sub(r"\$\{(PROXY_\w+)\}", lambda m: self.values(folder)[m[1]], template)
        )
        (folder / "nginx.conf").write_text(wrapper(folder))
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"],
            stdout=self.log,
            stderr=self.log,
        )
        self._wait()

    def values(self, folder):
        dagster, mlflow = (server.server_address[1] for server in self.upstreams)
        return {
            "PROXY_PORT": f"127.0.0.1:{self.port}",
            "PROXY_TLS": str(folder / "tls.conf"),
            "PROXY_RESOLVER": "127.0.0.1",
            "PROXY_PASSWORDS": str(folder / "passwords"),
            "PROXY_DAGSTER_HOST": DAGSTER,
            "PROXY_DAGSTER_ORIGIN": f"http://{DAGSTER}:{self.port}",
            "PROXY_DAGSTER_UPSTREAM": f"127.0.0.1:{dagster}",
            "PROXY_MLFLOW_HOST": MLFLOW,
            "PROXY_MLFLOW_ORIGIN": f"http://{MLFLOW}:{self.port}",
            "PROXY_MLFLOW_UPSTREAM": f"127.0.0.1:{mlflow}",
        }

    def _tls(self, folder):
        pair = ["-keyout", str(folder / "tls_key"), "-out", str(folder / "tls_certificate")]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={DAGSTER}"]
        subprocess.run([*command, *pair], check=True, capture_output=True)
        text = (DEPLOY / "nginx/tls.conf").read_text().replace("/run/secrets", str(folder))
        (folder / "tls.conf").write_text(text.replace("listen 8443", f"listen 127.0.0.1:{self.tls_port}"))

    def _upstream(self, name):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        server.name, server.daemon_threads = name, True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _wait(self):
        for _ in range(200):
            assert self.process.poll() is None, self._said()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError(self._said())

    def _said(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        self.log.close()
        for server in self.upstreams:
            server.shutdown()
            server.server_close()

    def origin(self, host):
        return f"http://{host}:{self.port}"

    def ask(self, method, path, host=DAGSTER, password=True, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            everything = {"Host": f"{host}:{self.port}", **(PASSWORD if password else {}), **headers}
            connection.request(method, path, body, everything)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def upgrade(self, host=DAGSTER, path="/graphql", **headers):
        lines = {"Host": f"{host}:{self.port}", **PASSWORD, **WEBSOCKET, **headers}
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as line:
            request = f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
            line.sendall(request.encode())
            answer = line.recv(4096)
            if b" 101 " not in answer.split(b"\r\n")[0]:
                return int(answer.split()[1]), b""
            line.sendall(b"hello\n")
            echo = b""
            while not echo.endswith(b"\n"):
                echo += line.recv(100)
            return 101, echo


def wrapper(folder):
    paths = "".join(
        f"{kind}_temp_path {folder}/temp_{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if Path("/proc/self").stat().st_uid == 0 else ""
    return (
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log stderr; {user} "
        f"events {{ worker_connections 64; }} http {{ {paths} include {folder}/scarforge.conf; }}"
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    server = Proxy(tmp_path_factory.mktemp("proxy"))
    yield server
    server.stop()


@pytest.mark.parametrize("host", [DAGSTER, MLFLOW])
def test_without_a_password_nothing_is_answered(proxy, host):
    assert proxy.ask("GET", "/", host, password=False)[0] == 401
    wrong = "Basic " + base64.b64encode(b"ada:guess").decode()
    assert proxy.ask("GET", "/", host, password=False, Authorization=wrong)[0] == 401
    assert proxy.ask("POST", "/graphql", host, password=False, body="{}", **JSON)[0] == 401


@pytest.mark.parametrize(("host", "name"), [(DAGSTER, "dagster"), (MLFLOW, "mlflow")])
def test_with_a_password_each_name_leads_to_its_own_server_which_never_sees_the_password(proxy, host, name):
    status, body = proxy.ask("GET", "/", host)
    seen = json.loads(body)
    assert (status, seen["upstream"]) == (200, name)
    assert "Authorization" not in seen["headers"]
    assert seen["headers"]["Host"] == f"{host}:{proxy.port}"


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1", "localhost"])
def test_another_name_is_refused_even_with_the_password(proxy, host):
    assert proxy.ask("GET", "/", host)[0] == 421
    assert proxy.ask("POST", "/graphql", host, body="{}", Origin=f"http://{host}:{proxy.port}", **JSON)[0] == 421


@pytest.mark.parametrize(("host", "path"), [(DAGSTER, "/graphql"), (MLFLOW, "/api/2.0/mlflow/runs/create")])
def test_a_post_is_taken_from_its_own_page_and_from_programs_only(proxy, host, path):
    def post(**headers):
        return proxy.ask("POST", path, host, body="{}", **JSON, **headers)[0]

    assert post(Origin=proxy.origin(host), Sec_Fetch_Site="same-origin") == 200
    assert post(Origin=proxy.origin(host)) == 200
    assert post() == 200
    sibling = proxy.origin(MLFLOW if host == DAGSTER else DAGSTER)
    for origin in ("https://evil.example.org", "null", sibling, f"http://{host}", proxy.origin(host) + ".evil.org"):
        assert post(Origin=origin) == 403
    for site in ("cross-site", "same-site"):
        assert post(Sec_Fetch_Site=site) == 403
        assert (
            post(**{name.replace("-", "_"): value for name, value in {**CLICK, "Sec-Fetch-Site": site}.items()}) == 403
        )


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "text/plain; application/json", ""]
)
def test_graphql_is_taken_as_json_only_since_a_foreign_page_may_post_anything_else_unasked(proxy, kind):
    assert proxy.ask("POST", "/graphql?query=mutation", body="{}", Content_Type=kind)[0] == 403
    assert proxy.ask("POST", "/graphql", body="{}", Content_Type="application/json; charset=utf-8")[0] == 200


def test_graphql_is_not_taken_from_an_address_since_dagster_would_run_its_mutations(proxy):
    assert proxy.ask("GET", "/graphql?query=mutation")[0] == 403
    assert proxy.ask("GET", "/GRAPHQL/../graphql?query=mutation")[0] == 403
    assert proxy.ask("GET", "/graphql/?query=mutation")[0] == 403


def test_a_link_on_another_page_may_be_clicked_but_nothing_there_loads_or_calls_ours(proxy):
    click = {name.replace("-", "_"): value for name, value in CLICK.items()}
    assert proxy.ask("GET", "/runs", **click)[0] == 200
    assert proxy.ask("GET", "/graphql", **click)[0] == 403
    assert proxy.ask("GET", "/runs", **{**click, "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"})[0] == 403
    assert proxy.ask("GET", "/runs", **{**click, "Sec_Fetch_Dest": "iframe"})[0] == 403
    assert proxy.ask("OPTIONS", "/graphql", Origin="https://evil.example.org")[0] == 403


@pytest.mark.parametrize("host", [DAGSTER, MLFLOW])
def test_what_a_foreign_page_has_a_browser_send_is_refused_with_a_password_too(proxy, host):
    for attack in foreign_requests(proxy.origin(MLFLOW if host == DAGSTER else DAGSTER)):
        asked = attack.host or host
        if attack.websocket:
            status, _ = proxy.upgrade(asked, attack.path, **attack.headers)
        else:
            headers = {name.replace("-", "_"): value for name, value in attack.headers.items()}
            status, _ = proxy.ask(attack.method, attack.path, asked, **headers)
        assert status == (421 if attack.host else 403), attack


def test_a_websocket_is_opened_by_our_own_page_only(proxy):
    assert proxy.upgrade(Origin=proxy.origin(DAGSTER)) == (101, b"hello\n")
    assert proxy.upgrade(Origin="https://evil.example.org")[0] == 403
    assert proxy.upgrade(Origin=proxy.origin(MLFLOW))[0] == 403
    assert proxy.upgrade()[0] == 403
    assert proxy.upgrade(Origin=proxy.origin(DAGSTER), Authorization="Basic none")[0] == 401
    assert proxy.upgrade("evil.example.org", Origin=proxy.origin(DAGSTER))[0] == 421


def test_large_model_files_pass_to_mlflow(proxy):
    assert proxy.ask("PUT", "/api/2.0/mlflow-artifacts/artifacts/x", MLFLOW, body=b"0" * (12 << 20))[0] == 200
    assert proxy.ask("POST", "/graphql", body=b"0" * (12 << 20), **JSON)[0] == 413


def test_the_same_door_speaks_tls(proxy):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", proxy.tls_port, context=context, timeout=20)
    for headers, status in (({}, 401), (PASSWORD, 200)):
        connection.request("GET", "/", headers={"Host": DAGSTER, **headers})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()
