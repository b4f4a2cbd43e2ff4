"""A local server of S3's protocol, with faults in front of it: replies to slow down, and connections that break."""

import http.client
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import fsspec
import requests
from moto.server import ThreadedMotoServer

SLOW = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
BUCKET = "bucket"


class Front(BaseHTTPRequestHandler):
    """Passes requests on, except for those that `faults` of the server names, one after the other."""

    protocol_version = "HTTP/1.1"

    def _pass(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        state = self.server.state
        state["requests"] += 1
        fault = state["faults"].pop(0) if state["faults"] else None
        if fault == "slow":
            self._reply(503, {"Content-Type": "application/xml"}, SLOW)
            return
        behind = http.client.HTTPConnection("127.0.0.1", state["port"], timeout=20)
        behind.request(self.command, self.path, body, dict(self.headers))
        reply = behind.getresponse()
        data = reply.read()
        kept = {key: value for key, value in reply.getheaders() if key.lower() not in _OWN}
        if self.command == "HEAD":
            kept["Content-Length"] = reply.getheader("Content-Length") or "0"
        if fault == "cut":
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(data) + 1))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self._reply(reply.status, kept, data)

    def _reply(self, status, headers, data):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass

    def log_message(self, *_):
        pass


_OWN = ("content-length", "transfer-encoding", "connection", "date", "server")


def _require_keys(url: str, monkeypatch) -> None:
    """Makes a user, puts the keys into the environment, and has the server check the signatures of all requests."""
    iam = boto3.Session().client("iam", endpoint_url=url)
    iam.create_user(UserName="user")
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="user", PolicyName="all", PolicyDocument=json.dumps(allowed))
    keys = iam.create_access_key(UserName="user")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    requests.post(f"{url}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()


@contextmanager
def store_server(monkeypatch):
    """Context manager that yields a client and the state of the server, and sets the credentials of the environment."""
    for name, value in {"AWS_ACCESS_KEY_ID": "first", "AWS_SECRET_ACCESS_KEY": "first"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    behind = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    behind.start()
    port = behind.get_host_and_port()[1]
    front = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    front.state = {"requests": 0, "faults": [], "port": port}
    threading.Thread(target=front.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{front.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    try:
        client = boto3.Session().client("s3", endpoint_url=url)
        client.create_bucket(Bucket=BUCKET)
        _require_keys(f"http://127.0.0.1:{port}", monkeypatch)
        client = boto3.Session().client("s3", endpoint_url=url)
        yield client, front.state
    finally:
        fsspec.filesystem("s3").clear_instance_cache()
        front.shutdown()
        front.server_close()
        behind.stop()
