"""A web server on this machine whose answers a test sets, for everything that downloads."""

from __future__ import annotations

import contextlib
import http.server
import threading


class Server:
    """A server whose answer each test sets: `answer(handler, number of the request)`."""

    def __init__(self):
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers)))
                try:
                    outer.answer(self, len(outer.requests))
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *_):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}/Made_Data.zip"


def send(handler, data, length=None, status=200, **headers):
    handler.send_response(status)
    if length != -1:
        handler.send_header("Content-Length", str(len(data) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


@contextlib.contextmanager
def serving(monkeypatch, download):
    """A server, no proxy between, and no long pauses between attempts."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)
    server = Server()
    yield server
    server.httpd.shutdown()
    server.httpd.server_close()
