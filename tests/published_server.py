"""A web server on this machine for published files, with the faults that servers and networks have."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves the files of a folder, with ranges.

    `faults` are used up by requests, the first one first: a number of bytes after which the connection is cut, an HTTP
    status, "slow" (nothing comes for a second), "ignore range", or None for an answer without a fault.
    """

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.faults, self.asked, self.moved = folder, [], [], {}
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def sha256(self, name: str) -> str:
        return hashlib.sha256((self.folder / name).read_bytes()).hexdigest()

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, name = self.server, self.path.lstrip("/")
        server.asked.append((name, self.headers.get("Range")))
        fault = server.faults.pop(0) if server.faults else None
        if name in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[name])
            self.end_headers()
            return
        if fault == "slow":
            time.sleep(1)
        path = server.folder / name
        if isinstance(fault, int) and 400 <= fault < 600 or not path.is_file():
            self.send_error(fault if isinstance(fault, int) else 404)
            return
        data, start = path.read_bytes(), 0
        version = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if (wanted := self.headers.get("Range")) and fault != "ignore range":
            if self.headers.get("If-Range", version) == version:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(data) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", version)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        self.wfile.write(body[:fault] if isinstance(fault, int) else body)
