"""Runs `duo serve` behind a proxy with TLS, with the configuration of nginx in docs/http_api.md.

It needs nginx and openssl, else it prints SKIPPED. Usage: serve_proxy_test.py PATH/TO/duo"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys

from cli_harness import HANG_SECONDS, main
from serve_harness import ENDLESS, JSON_HEADER, ServeTest, wait_until

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs" / "http_api.md"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
TEXT = "/v1/completions"
NAME = "llm.example.com"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


class ProxyTest(ServeTest):
    def setUp(self):
        super().setUp()
        self.port = free_port()
        self.origin = "https://%s:%d" % (NAME, self.port)

    def proxy(self, server):
        """Starts nginx before the server, with the configuration of the docs."""
        block = re.search(r"^```nginx\n(.*?)^```$", DOCS.read_text(), re.M | re.S).group(1)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "2", "-subj", "/CN=" + NAME, "-addext", "subjectAltName=DNS:" + NAME, "-keyout",
                        self.dir / "key", "-out", self.dir / "cert"], check=True, capture_output=True)  # fmt: skip
        for docs, here in [("listen 443 ssl", "listen 127.0.0.1:%d ssl" % self.port),
                           ("/etc/ssl/%s.pem" % NAME, str(self.dir / "cert")),
                           ("/etc/ssl/%s.key" % NAME, str(self.dir / "key")),
                           ("http://127.0.0.1:8080", "http://127.0.0.1:%d" % server.port)]:  # fmt: skip
            self.assertEqual(block.count(docs), 1, docs)
            block = block.replace(docs, here)
        folders = "".join("%s_temp_path %s/%s;\n" % (kind, self.dir, kind)
                          for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])  # fmt: skip
        user = "user root;\n" if os.getuid() == 0 else ""
        config = self.file("nginx.conf", "%sdaemon off;\npid %s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n"
                           "%s%s}\n" % (user, self.dir, folders, block))  # fmt: skip
        with open(self.dir / "nginx.log", "wb") as log:
            process = subprocess.Popen([NGINX, "-e", "stderr", "-p", self.dir, "-c", config], stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=log)  # fmt: skip
        self.addCleanup(process.wait, HANG_SECONDS)
        self.addCleanup(process.terminate)

        def listens():
            self.assertIsNone(process.poll(), (self.dir / "nginx.log").read_text())
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return True
            return False

        wait_until(listens, "nginx listens")

    def connect(self):
        context = ssl.create_default_context(cafile=str(self.dir / "cert"))
        connection = http.client.HTTPSConnection(NAME, self.port, timeout=HANG_SECONDS)
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=HANG_SECONDS)
        connection.sock = context.wrap_socket(sock, server_hostname=NAME)
        self.addCleanup(connection.close)
        return connection

    def ask(self, method, path, body=None):
        """Asks as a page at the proxy's address does."""
        connection = self.connect()
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Origin": self.origin, **(JSON_HEADER if data else {})})
        return connection, connection.getresponse()

    def test_the_page_and_its_requests(self):
        server = self.serve("--public-url", self.origin)
        self.proxy(server)
        for path, kind in [("/", "text/html"), ("/app.js", "text/javascript"), ("/v1/status", "application/json")]:
            _, response = self.ask("GET", path)
            self.assertEqual((response.status, response.headers["Content-Type"].split(";")[0]), (200, kind), path)
        _, response = self.ask("POST", TEXT, {"prompt": "The cow", "max_tokens": 2, "user": "x" * 1000000})
        body = response.read()
        self.assertEqual(response.status, 200, body)
        self.assertEqual(json.loads(body)["usage"]["completion_tokens"], 2)

    def test_streams_come_piece_by_piece_and_can_be_left(self):
        server = self.serve("--public-url", self.origin)
        self.proxy(server)
        connection, response = self.ask("POST", TEXT, {**ENDLESS, "stream": True})
        self.assertEqual(response.status, 200)
        self.assertTrue(response.readline())  # long before the answer ends
        server.wait_for_states("decode")  # clients get a token before the status shows it
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        response.close()
        connection.close()
        server.wait_for_states()
        self.assertEqual(server.metric("duo_cancelled_requests_total"), 1)

    def test_without_its_url_the_server_says_so(self):
        server = self.serve()
        self.proxy(server)
        _, response = self.ask("GET", "/v1/models")
        self.assertEqual(response.status, 403)
        self.assertIn("not to", json.loads(response.read())["error"]["message"])


if __name__ == "__main__":
    for needed, found in [("nginx", NGINX), ("openssl", shutil.which("openssl"))]:
        if not found:
            print("SKIPPED: no " + needed)
            sys.exit(0)
    main()
