"""Another site: a page that tries everything a page can to use an interface of this machine; a victim that tells."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EVIL = "evil.test"  # the browser takes every name under .test for this machine

# Runs in the page. `target` is the interface, `writes` are [path, query or body] pairs, `reads` are paths.
# Returns everything of `target` that the page got to see.
ATTACK = """
async ({target, writes, reads}) => {
  const seen = [];
  const keep = what => async answer => seen.push([what, (await answer.text()).slice(0, 200)]);
  const event = (thing, ...names) => new Promise(done => {
    names.forEach(name => thing.addEventListener(name, done));
    setTimeout(done, 4000);
  });
  const add = (tag, settings) => {
    const element = Object.assign(document.createElement(tag), settings);
    const ended = event(element, 'load', 'error');
    document.body.append(element);
    return ended.then(() => element);
  };
  const post = (path, body, type, mode) =>
    fetch(target + path, {method: 'POST', body, mode, headers: type ? {'Content-Type': type} : {}})
      .then(mode === 'cors' ? keep('POST ' + type) : () => {}).catch(() => {});
  const form = async (path, enctype, name, value) => {
    const frame = await add('iframe', {name: 'frame' + Math.random()});
    const sent = Object.assign(document.createElement('form'),
      {action: target + path, method: 'POST', enctype, target: frame.name});
    sent.append(Object.assign(document.createElement('input'), {name, value}));
    document.body.append(sent);
    const ended = event(frame, 'load');
    sent.submit();
    await ended;
    try { seen.push(['form', frame.contentDocument.body.innerText]); } catch { /* another site's, as it should be */ }
  };
  const socket = async () => {
    const line = new WebSocket(target.replace('http', 'ws') + '/graphql', 'graphql-ws');
    line.onopen = () => { seen.push(['websocket', 'open']); line.send('{"type": "connection_init"}'); };
    line.onmessage = message => seen.push(['websocket', message.data]);
    await event(line, 'error', 'message');
    line.close();
  };
  const all = [socket()];
  for (const [path, query, body] of writes) {
    const address = path + '?query=' + encodeURIComponent(query);
    all.push(
      add('img', {src: target + address}),
      add('script', {src: target + address}),
      fetch(target + address, {mode: 'no-cors'}).catch(() => {}),
      fetch(target + address, {mode: 'no-cors', referrerPolicy: 'no-referrer'}).catch(() => {}),
      post(address, body, 'text/plain', 'no-cors'),
      post(path, body, 'text/plain', 'no-cors'),
      post(path, body, 'text/plain', 'cors'),
      post(path, body, 'application/json', 'cors'),
      form(address, 'text/plain', body, ''),
      form(path, 'text/plain', body.slice(0, -1) + ', "x": "', '"}'),  // a body of JSON, with the equals sign inside
      form(path, 'application/x-www-form-urlencoded', 'query', query),
      form(path, 'multipart/form-data', 'query', query),
    );
    navigator.sendBeacon(target + path, body);
  }
  for (const path of reads) {
    all.push(
      fetch(target + path).then(keep('GET')).catch(() => {}),
      add('iframe', {src: target + path}).then(frame => {
        try { if (frame.contentDocument.body.innerText) seen.push(['frame', path]); } catch { /* as it should be */ }
      }),
    );
  }
  await Promise.all(all);
  return seen;
}
"""


@dataclass
class Site:
    """A server of pages without content, which tells what it was asked."""

    port: int
    asked: list[tuple[str, str]] = field(default_factory=list)  # method; kind of content, purpose or upgrade

    @property
    def page(self) -> str:
        return f"http://{EVIL}:{self.port}/"


@contextmanager
def site() -> Iterator[Site]:
    """Serve on a port of its own."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            purpose = self.headers.get("Upgrade") or self.headers.get("Sec-Fetch-Dest") or ""
            told.asked.append((self.command, self.headers.get("Content-Type", purpose).partition(";")[0]))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>kittens</title><body></body>")

        do_POST = do_OPTIONS = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        told = Site(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield told
        server.shutdown()
