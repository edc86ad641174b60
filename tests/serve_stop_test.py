"""Tests how `duo serve` starts, refuses to start, and stops. Usage: serve_stop_test.py PATH/TO/duo"""

import json
import signal
import socket

from cli_harness import main
from serve_harness import ENDLESS, JSON_HEADER, ServeTest, wait_until

TEXT = "/v1/completions"
LONG = {**ENDLESS, "max_tokens": 2000}


class StartTest(ServeTest):
    def refused(self, code, needles, *flags):
        return self.fails(code, needles, "serve", "--model", "demo", "--pattern", "demo", *flags)

    def test_port_in_use(self):
        server = self.serve()
        self.refused(1, ["127.0.0.1:%d: something else listens there" % server.port, "--port"], "--port", server.port)
        self.assertEqual(server.get("/health"), {"status": "ok"})
        with socket.create_server(("127.0.0.1", 0)) as other:
            self.refused(1, "something else listens there", "--port", other.getsockname()[1])

    def test_port_can_be_taken_again_at_once(self):
        first = self.serve()
        stream = first.stream(body=ENDLESS)
        stream.next()
        stream.disconnect()
        self.assertEqual(first.stop(), 0)
        second = self.serve(port=first.port)
        self.assertEqual(second.port, first.port)

    def test_bad_hosts(self):
        for host in ["999.1.1.1", "203.0.113.7", "not a host", ""]:
            with self.subTest(host=host):
                run = self.refused(1 if host else 2, "--host" if not host else host, "--host", host, "--port", 0)
                self.assertNotIn("Success", run.err)

    def test_bad_key_files(self):
        self.refused(1, ["--api-key-file", "nowhere"], "--port", 0, "--api-key-file", self.dir / "nowhere")
        for content in ["", "\n", "two or three\n", "two\nlines\n", "anna two\nanna two-more\n", "../two key\n"]:
            with self.subTest(content=content[:20]):
                run = self.refused(2, "--api-key-file", "--port", 0, "--api-key-file", self.file("key", content))
                self.assertNotIn("two", run.err)
        self.refused(2, "1024 bytes", "--port", 0, "--api-key-file", self.file("key", "a" * 5000))

    def test_bad_flags(self):
        for flags, needle in [
            (["--autosave"], "--session-dir"), (["--chat-template", "other"], "--chat-template"),
            (["--max-body", "much"], "--max-body"), (["--parallel", 0], "--parallel"),
            (["--parallel", 1000], "--parallel"), (["--queue", 0], "--queue"), (["--port", 65536], "--port"),
            (["--connections", 0], "--connections"),
            (["--idle-timeout", 0], "--idle-timeout"), (["--drain", -1], "--drain"), (["--chunk", 4], "chunk"),
        ]:  # fmt: skip
            with self.subTest(flags=flags):
                self.refused(2, needle, *([] if "--port" in flags else ["--port", 0]), *flags)

    def test_bad_folders(self):
        path = self.file("file", "")
        self.refused(1, str(path), "--port", 0, "--session-dir", path)
        self.refused(1, str(path), "--port", 0, "--port-file", path / "port")

    def test_port_file(self):
        server = self.serve()
        self.assertEqual(server.port_file.read_text(), "%d\n" % server.port)
        server.wait_for_log("demo on http://127.0.0.1:%d/: " % server.port)

    def test_host_beside_loopback_warns(self):
        server = self.serve("--host", "127.0.0.2")
        with socket.create_connection(("127.0.0.2", server.port)) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.2\r\nConnection: close\r\n\r\n")
            self.assertIn(b"200 OK", sock.recv(1 << 16))


class StopTest(ServeTest):
    def test_idle_server_stops_at_once_whatever_is_connected(self):
        for number in [signal.SIGTERM, signal.SIGINT]:
            server = self.serve()
            with socket.create_connection(("127.0.0.1", server.port)) as sock:
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertIn(b"200 OK", sock.recv(1 << 16))
                server.signal(number)
                self.assertEqual(server.process.wait(600), 0)
            self.assertIn("stopped", server.log_text())

    def test_running_requests_finish_and_new_ones_are_refused(self):
        server = self.serve("--drain", 500, "--parallel", 1)
        stream = server.stream(body=LONG)
        stream.next()
        waiting = server.connect()
        waiting.request("POST", TEXT, json.dumps({"prompt": "The cow", "max_tokens": 3}), JSON_HEADER)
        server.wait_for_states("decode", "waiting")
        server.signal()
        wait_until(lambda: server.request("GET", "/health").status == 503, "the server stops")
        self.assertEqual(server.request("GET", "/health").json(), {"status": "stopping"})
        for body in [{"prompt": "a"}, {"prompt": "a", "stream": True}]:
            self.assert_error(server.request("POST", TEXT, body), 503, "server_error", "stopping")
        self.assertEqual(len(server.in_state("decode")), 1, "the request ended too early for this test")
        stream.read_all()
        self.assertTrue(stream.done)
        self.assertEqual(stream.events[-1]["choices"][0]["finish_reason"], "length")
        self.assertEqual(stream.events[-1]["duo"]["finish"], "length")
        response = waiting.getresponse()
        self.assertEqual((response.status, json.loads(response.read())["usage"]["completion_tokens"]), (200, 3))
        waiting.close()
        self.assertEqual(server.process.wait(600), 0)

    def test_without_drain_requests_are_told(self):
        server = self.serve("--drain", 0, "--parallel", 2)
        stream = server.stream(body=ENDLESS)
        stream.next()
        plain, waiting = server.connect(), server.connect()
        for connection, states in [(plain, ["decode", "decode"]), (waiting, ["decode", "decode", "waiting"])]:
            connection.request("POST", TEXT, json.dumps(ENDLESS), JSON_HEADER)
            server.wait_for_states(*states)
        server.signal()
        stream.read_all()
        self.assertFalse(stream.done)
        self.assertIn("error", stream.events[-1])
        answers = []
        for connection in [plain, waiting]:
            response = connection.getresponse()
            answers.append((response.status, json.loads(response.read())["error"]))
            connection.close()
        self.assertEqual(server.process.wait(600), 0)
        answers.append((503, stream.events[-1]["error"]))
        found = [(status, error["type"], error["code"]) for status, error in answers]
        self.assertEqual(found, [(503, "server_error", "stopping")] * 3)

    def test_second_signal_ends_it_at_once(self):
        server = self.serve("--drain", 500)
        stream = server.stream(body=ENDLESS)
        stream.next()
        server.signal()
        server.wait_for_log("stopping")
        server.signal()
        self.assertNotEqual(server.process.wait(600), None)
        stream.disconnect()

    def test_autosave_of_idle_sessions_before_the_drain(self):
        """The sender of SIGTERM may kill soon after. `docker stop` waits 10 s."""
        folder = self.dir / "sessions"
        flags = ["--session-dir", folder, "--autosave"]
        server = self.serve(*flags, "--drain", 80000)
        for name in ["book", "tale"]:
            server.complete("The cow feeds the barn.", 3, duo={"cache": name})
        stream = server.stream(body={**ENDLESS, "duo": {"ignore_eos": True, "cache": "tale"}})
        stream.next()
        server.wait_for_states("decode")
        server.signal()
        wait_until((folder / "book.session").exists, "the idle session is saved")
        self.assertEqual(len(server.in_state("decode")), 1, "the request ended too early for this test")
        self.assertFalse((folder / "tale.session").exists())
        server.kill()
        stream.disconnect()
        found = self.serve(*flags).get("/v1/sessions")["data"]
        self.assertEqual([(s["name"], s["on_disk"]) for s in found], [("book", True)])

    def test_autosave_writes_what_changed_after_it_was_saved(self):
        folder = self.dir / "sessions"
        flags = ["--session-dir", folder, "--autosave"]
        server = self.serve(*flags)
        for name in ["changed", "same", "removed"]:
            server.complete("The cow feeds the barn.", 3, duo={"cache": name})
            self.assertEqual(server.request("POST", "/v1/sessions/%s/save" % name).status, 200)
        before = (folder / "same.session").stat()
        server.complete("The cow feeds the barn. The muddy horse", 3, duo={"cache": "changed"})
        (folder / "removed.session").unlink()
        tokens = {s["name"]: s["tokens"] for s in server.get("/v1/sessions")["data"]}
        self.assertEqual(server.stop(), 0)
        after = (folder / "same.session").stat()
        self.assertEqual((after.st_ino, after.st_mtime_ns), (before.st_ino, before.st_mtime_ns), "as it was")
        found = {s["name"]: s["tokens"] for s in self.serve(*flags).get("/v1/sessions")["data"]}
        self.assertEqual(found, tokens)

    def test_autosave_after_the_drain(self):
        flags = ["--session-dir", self.dir / "sessions", "--autosave"]
        server = self.serve(*flags, "--drain", 0)
        stream = server.stream(body={**ENDLESS, "duo": {"ignore_eos": True, "cache": "tale"}})
        for _ in range(10):
            stream.next()
        server.signal()
        stream.read_all()
        self.assertEqual(server.process.wait(600), 0)
        found = self.serve(*flags).get("/v1/sessions")["data"]
        self.assertEqual([s["name"] for s in found], ["tale"])
        self.assertGreaterEqual(found[0]["tokens"], 10)


if __name__ == "__main__":
    main()
