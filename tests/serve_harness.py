"""Starts `duo serve` for its behaviour tests and sends it requests. Time limits only end runs that hang."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

import cli_harness
from cli_harness import HANG_SECONDS, CliTest

PROSE = "The muddy horse feeds the golden field. The farmer grows the cow.\n"
EXACT = ["--compute", "f32", "--kv-type", "f32"]
JSON_HEADER = {"Content-Type": "application/json"}
# Generates for minutes, so a test must end it.
ENDLESS = {"prompt": "The cow", "max_tokens": 30000, "temperature": 0, "duo": {"ignore_eos": True}}
METRIC_LINE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z_]+="[^"\\\n]*",?)*)\})? (\S+)$')


def wait_until(condition, what):
    """Waits until condition() is true, and returns its value."""
    end = time.monotonic() + HANG_SECONDS
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("never: " + what)


def is_sanitized():
    """Whether the program is built with a sanitizer. Its memory then says nothing about the server."""
    program = pathlib.Path(cli_harness.DUO).read_bytes()
    return b"__asan_init" in program or b"__tsan_init" in program


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body.decode("utf-8"))

    def error(self):
        return self.json()["error"]


class Stream:
    """The events of one answer, in order: parsed events in `events`, comments in `comments`."""

    def __init__(self, server, path, body, headers=None):
        self.connection = server.connect()
        self.connection.request("POST", path, json.dumps(body), {**JSON_HEADER, **(headers or {})})
        self.response = self.connection.getresponse()
        self.events, self.comments, self.done = [], [], False

    def next(self):
        """The next event, or None at the end of the stream."""
        while True:
            line = self.response.readline()
            if not line:
                return None
            line = line.decode("utf-8").rstrip("\n")
            if line.startswith(":"):
                self.comments.append(line[1:].strip())
            elif line == "data: [DONE]":
                self.done = True
            elif line:
                if not line.startswith("data: "):
                    raise AssertionError("not a line of an event stream: %r" % line)
                self.events.append(json.loads(line[6:]))
                return self.events[-1]

    def read_all(self):
        while self.next() is not None:
            pass
        self.connection.close()
        return self

    def text(self, index=0):
        choices = [c for e in self.events for c in e.get("choices", []) if c["index"] == index]
        return "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)

    def disconnect(self):
        with contextlib.suppress(OSError):
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.response.close()
        self.connection.close()


class Server:
    """A running `duo serve`, by default with the embedded model."""

    def __init__(self, folder, *flags, model="demo", pattern="demo", port=0, cwd=None, **popen):
        self.folder = pathlib.Path(folder)
        number = len(list(self.folder.glob("*.log")))
        self.log = self.folder / ("%d.log" % number)
        self.port_file = self.folder / ("%d.port" % number)
        command = [cli_harness.DUO, "serve", "--model", model, "--pattern", pattern]
        if pattern != "none":
            command += ["--sparsity", 0.5]
        command += ["--port", port, "--port-file", self.port_file, *flags]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, cwd=cwd, **popen)  # fmt: skip
        self.port = self.wait_for_port()

    def wait_for_port(self):
        wait_until(lambda: self.port_file.exists() or self.process.poll() is not None, "the port file")
        if self.process.poll() is not None:
            raise AssertionError("duo serve ended with %d: %s" % (self.process.returncode, self.log_text()))
        return int(self.port_file.read_text())

    def log_text(self):
        return self.log.read_text(errors="replace")

    def wait_for_log(self, text):
        """Waits for a line. The line with the address comes after the port file, a request's line after its answer."""
        wait_until(lambda: text in self.log_text(), "%r in the log" % text)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def stop(self):
        """Sends SIGTERM and returns the exit code."""
        if self.process.poll() is None:
            self.signal()
        return self.process.wait(HANG_SECONDS)

    def kill(self):
        self.process.kill()
        self.process.wait(HANG_SECONDS)

    # ------------------------------------------------------------ requests

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_SECONDS)

    def request(self, method, path, body=None, headers=None):
        """`body` is a value to send as JSON, or bytes to send unchanged."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if headers is None:
            headers = JSON_HEADER if body is not None else {}
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, headers=None):
        answer = self.request("GET", path, headers=headers)
        if answer.status != 200:
            raise AssertionError("GET %s: %d %r" % (path, answer.status, answer.body))
        return answer.json()

    def post(self, path, body):
        answer = self.request("POST", path, body)
        if answer.status != 200:
            raise AssertionError("POST %s: %d %r" % (path, answer.status, answer.body))
        return answer.json()

    def complete(self, prompt, max_tokens=16, **fields):
        """A greedy completion: its text, the number of cached tokens, and the whole answer."""
        whole = self.post("/v1/completions", {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **fields})
        return whole["choices"][0]["text"], whole["usage"]["prompt_tokens_details"]["cached_tokens"], whole

    def stream(self, path="/v1/completions", body=None, headers=None):
        return Stream(self, path, {**body, "stream": True}, headers)

    def raw(self, data, end_of_input=False):
        """Sends these bytes and returns all that the server sends until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=HANG_SECONDS) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
                if end_of_input:
                    sock.shutdown(socket.SHUT_WR)
            return read_to_end(sock)

    def status(self):
        return self.get("/v1/status")

    def in_state(self, *states):
        return [s for s in self.status()["sequences"] if s["state"] in states]

    def wait_for_states(self, *states):
        """Waits until the sequences that are not idle have exactly these states."""
        def now():
            found = sorted(s["state"] for s in self.status()["sequences"] if s["state"] != "kept")
            return found == sorted(states)

        wait_until(now, "sequences in the states %s" % (states,))

    def metrics(self):
        """The metrics as {(name, labels): value}. Every line must follow Prometheus' text format."""
        answer = self.request("GET", "/metrics")
        if answer.status != 200 or not answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"):
            raise AssertionError("no metrics: %d %s" % (answer.status, answer.headers))
        values, types = {}, {}
        for line in answer.body.decode().splitlines():
            if line.startswith("# TYPE "):
                name, kind = line.split()[2:]
                types[name] = kind
            elif not line.startswith("# HELP "):
                match = METRIC_LINE.match(line)
                if not match:
                    raise AssertionError("not a line of metrics: %r" % line)
                name, labels, value = match.groups()
                base = re.sub("_(bucket|sum|count)$", "", name)
                if name not in types and types.get(base) != "histogram":
                    raise AssertionError("no type before %r" % line)
                if (name, labels or "") in values:
                    raise AssertionError("twice: %r" % line)
                values[name, labels or ""] = float(value)
        return values

    def metric(self, name, labels=""):
        return self.metrics().get((name, labels), 0)


def read_to_end(sock):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while block := sock.recv(1 << 16):
            data += block
    return data


def in_threads(functions):
    """Runs all functions at once and returns their results. Raises the first exception."""
    results = [None] * len(functions)
    errors = []

    def run(i):
        try:
            results[i] = functions[i]()
        except BaseException as error:  # raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


class ServeTest(CliTest):
    """Tests that start servers. Every server that a test leaves running must end with code 0."""

    def serve(self, *flags, **kwargs):
        server = Server(self.dir, *flags, **kwargs)
        self.addCleanup(self.end, server)
        return server

    def end(self, server):
        if server.process.poll() is None:
            self.assertEqual(server.stop(), 0, server.log_text())

    def generate(self, prompt, max_tokens=16, *flags, pattern="demo"):
        """The text that `duo generate` gives for a text or for token ids."""
        command = ["generate", "--model", "demo", "--pattern", pattern, "--max-tokens", max_tokens, "--json", *EXACT]
        if pattern != "none":
            command += ["--sparsity", 0.5]
        if isinstance(prompt, str):
            return self.ok(*command, *flags, "--prompt-file", "-", stdin=prompt).json()["text"]
        return self.ok(*command, *flags, "--ids", self.file("generate.json", json.dumps(prompt))).json()["text"]

    def assert_error(self, answer, status, type_, code=None, param=None, needle=""):
        what = "%d %r" % (answer.status, answer.body)
        self.assertEqual(answer.status, status, what)
        self.assertTrue(answer.headers["Content-Type"].startswith("application/json"), what)
        error = answer.error()
        self.assertEqual(sorted(error), ["code", "message", "param", "type"], what)
        self.assertEqual((error["type"], error["code"], error["param"]), (type_, code, param), what)
        self.assertIn(needle, error["message"], what)
        return error["message"]


class SharedServerTest(ServeTest):
    """One server for all tests of a class."""

    flags = []

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="duo_serve_test_")
        cls.addClassCleanup(folder.cleanup)
        cls.server = Server(folder.name, *cls.flags)
        cls.addClassCleanup(cls.end_server)

    @classmethod
    def end_server(cls):
        code = cls.server.stop()
        assert code == 0, "duo serve ended with %s: %s" % (code, cls.server.log_text())
