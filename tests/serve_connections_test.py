"""Tests the cost of connections to `duo serve`, and odd requests. Usage: serve_connections_test.py PATH/TO/duo"""

import contextlib
import json
import re
import socket

from cli_harness import HANG_SECONDS, main
from serve_harness import ENDLESS, JSON_HEADER, ServeTest, is_sanitized, read_to_end, wait_until

TEXT = "/v1/completions"
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH_ONCE = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
MIB = 1 << 20


def posted(body, head=HEAD):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


class ConnectionTest(ServeTest):
    def open(self, server, data=b""):
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=HANG_SECONDS)
        self.addCleanup(sock.close)
        sock.sendall(data)
        return sock

    def answers(self, sock):
        """Whether the server takes another request on this connection."""
        with contextlib.suppress(ConnectionError):
            sock.sendall(HEALTH)
            return bool(sock.recv(1 << 16))
        return False

    def read_until(self, sock, end):
        data = b""
        while end not in data:
            piece = sock.recv(1 << 16)
            self.assertTrue(piece, data)
            data += piece
        return data


class BodyMemoryTest(ServeTest):
    """A body takes a few times its size in memory, and the memory is freed."""

    def memory(self, server, name):
        with open("/proc/%d/status" % server.process.pid) as status:
            return int(re.search(r"^%s:\s+(\d+) kB" % name, status.read(), re.M).group(1)) << 10

    def test_bodies_of_many_values(self):
        if is_sanitized():
            self.skipTest("memory under a sanitizer does not tell")
        n_bytes = 8 * MIB
        keys = b",".join(b'"%x":{}' % i for i in range(n_bytes // 12))
        for name, body, status, times in [
            ("empty objects", b'{"prompt":[' + b"{}," * (n_bytes // 3 - 10) + b"{}]}", 400, 16),
            ("empty arrays", b'{"prompt":[' + b"[]," * (n_bytes // 3 - 10) + b"[]]}", 400, 16),
            ("members", b'{"prompt":{' + keys + b"}}", 400, 16),
            ("empty texts", b'{"prompt":[' + b'"",' * (n_bytes // 3 - 10) + b'""]}', 400, 16),
            ("ids", b'{"prompt":[' + b"1," * (n_bytes // 2 - 10) + b"1]}", 400, 8),
            ("a text", b'{"prompt":"' + b" " * (n_bytes - 20) + b'"}', 400, 16),
        ]:
            with self.subTest(body=name):
                server = self.serve("--memory", "512MiB", "--max-body", "8MiB")
                server.complete("The cow", 2)
                before = self.memory(server, "VmRSS")
                answer = server.request("POST", TEXT, body, JSON_HEADER)
                self.assertEqual(answer.status, status, answer.body)
                peak = self.memory(server, "VmHWM") - before
                self.assertLess(peak, times * len(body) + 8 * MIB, "%.1f times" % (peak / len(body)))
                wait_until(lambda: self.memory(server, "VmRSS") < before + 16 * MIB, "the memory comes back")
                server.stop()

    def test_the_default_follows_from_the_context(self):
        body = {"prompt": "a", "max_tokens": 1, "user": "x" * MIB}
        server = self.serve("--max-context", 8192, "--memory", "4GiB")
        self.assertEqual(server.request("POST", TEXT, body).status, 200)
        data = server.raw(posted({**body, "user": "x" * (MIB + 32 * 8192)}))
        self.assertTrue(data.startswith(b"HTTP/1.1 413 "), data)

    def test_bodies_are_in_the_budget(self):
        server = self.serve("--memory", "64MiB")
        memory = server.status()["memory"]
        self.assertGreater(memory["requests_bytes"], MIB)
        self.assertLess(memory["requests_bytes"], 8 * MIB)
        room = memory["budget_bytes"] - memory["weights_bytes"] - memory["workspace_bytes"] - memory["requests_bytes"]
        self.assertEqual(server.metric("duo_kv_budget_bytes"), room)
        self.fails(1, "--memory", "serve", "--model", "demo", "--port", 0, "--memory", "64MiB", "--max-body", "64MiB")


class SilentClientTest(ConnectionTest):
    def test_a_header_has_a_deadline(self):
        server = self.serve("--header-timeout", 1)
        for data in [b"G", b"GET /health HTTP/1.1\r\nX"]:
            answer = read_to_end(self.open(server, data))
            self.assertTrue(answer.startswith(b"HTTP/1.1 408 "), answer)
            self.assertEqual(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"], "invalid_request_error")

    def test_bytes_do_not_put_off_the_deadline(self):
        server = self.serve("--header-timeout", 1)
        sock = self.open(server, b"GET /health HTTP/1.1\r\nX: ")
        sock.settimeout(0.05)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while not answer:
                sock.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    answer = sock.recv(1 << 16)
                    break
        self.assertTrue(answer.startswith(b"HTTP/1.1 408 ") or not answer, answer)

    def test_idle_connections_give_way(self):
        server = self.serve("--connections", 2)
        kept = []
        for _ in range(2):
            kept.append(self.open(server, HEALTH))
            self.read_until(kept[-1], b'{"status":"ok"}')
        # It takes a moment until the server's threads wait again.
        wait_until(lambda: b" 200 OK" in server.raw(HEALTH_ONCE), "a place for another client")
        # Either may be closed: a connection whose thread waits again later counts as idle for a shorter time.
        left = [sock for sock in kept if self.answers(sock)]
        self.assertEqual(len(left), 1)

    def test_silent_connections_give_way(self):
        """The silent connections here never send a whole request."""
        server = self.serve("--connections", 2, "--header-timeout", 1000, "--idle-timeout", 1000)
        silent = [self.open(server), self.open(server, b"GET /health HTTP/1.1\r\nX")]
        wait_until(lambda: b" 200 OK" in server.raw(HEALTH_ONCE), "a place for an ordinary client")
        self.assertEqual(read_to_end(silent[0]), b"")

    def test_two_hundred_connections(self):
        server = self.serve()
        kept = []
        for _ in range(200):
            kept.append(self.open(server, HEALTH))
        for _ in range(2):
            for sock in kept:
                self.read_until(sock, b'{"status":"ok"}')
                sock.sendall(HEALTH)
        self.assertEqual(server.complete("The cow", 2)[2]["usage"]["completion_tokens"], 2)

    def test_busy_connections_do_not_give_way(self):
        server = self.serve("--connections", 2)
        streams = [server.stream(body=ENDLESS) for _ in range(2)]
        for stream in streams:
            stream.next()
        data = server.raw(HEALTH)
        self.assertTrue(data.startswith(b"HTTP/1.1 503 "), data)
        self.assertRegex(data, rb"\r\nRetry-After: [1-9]")
        error = json.loads(data.partition(b"\r\n\r\n")[2])["error"]
        self.assertEqual((error["type"], error["message"]), ("server_error", "too many connections"))
        for stream in streams:
            stream.next()
            stream.disconnect()


class HalfClosedTest(ConnectionTest):
    """A client may close its sending side after its request."""

    body = {"prompt": "The cow", "max_tokens": 600, "temperature": 0, "duo": {"ignore_eos": True}}

    def test_it_gets_its_answer(self):
        server = self.serve()
        data = server.raw(posted(self.body), end_of_input=True)
        head, _, body = data.rpartition(b"\r\n\r\n")
        self.assertIn(b"HTTP/1.1 200 OK", head)
        self.assertEqual(json.loads(body)["usage"]["completion_tokens"], 600)
        self.assertEqual(server.metric("duo_cancelled_requests_total"), 0)

    def test_it_gets_its_stream(self):
        server = self.serve()
        data = server.raw(posted({**self.body, "stream": True}), end_of_input=True)
        self.assertEqual(data.count(b"HTTP/1.1 "), 1)
        self.assertIn(b"data: [DONE]", data)
        self.assertEqual(server.metric("duo_cancelled_requests_total"), 0)

    def test_one_that_closes_both_has_gone(self):
        server = self.serve()
        for body in [ENDLESS, {**ENDLESS, "stream": True}]:
            sock = self.open(server, posted(body))
            server.wait_for_states("decode")
            sock.close()
            server.wait_for_states()
        self.assertEqual(server.metric("duo_cancelled_requests_total"), 2)


class FramingTest(ConnectionTest):
    def test_lengths_that_could_mean_two_things(self):
        server = self.serve("--idle-timeout", 1000)  # a wait for a body takes long
        body = b'{"prompt":"a","max_tokens":1}'
        for lines in [
            b"Content-Length: -1\r\n", b"Content-Length: 100000000000000000000000\r\n", b"Content-Length: +29\r\n",
            b"Content-Length : 29\r\n", b"Content-Length\t: 29\r\n", b"Content-Length: 29\r\nContent-Length: 30\r\n",
            b"Content-Length: 29\r\nContent-Length: 29\r\n", b"Content-Length: 29, 29\r\n", b"Content-Length:\r\n",
            b"Content-Length: 29\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 29\r\n folded\r\n",
            b"Content-Length: 29\r\nHost: other.example\r\n",
        ]:  # fmt: skip
            with self.subTest(lines=lines):
                data = read_to_end(self.open(server, HEAD + lines + b"\r\n" + body))
                self.assertTrue(data.startswith(b"HTTP/1.1 400 "), data)
                self.assertEqual(data.count(b"HTTP/1.1 "), 1, data)
                self.assertIn(b"Connection: close\r\n", data)

    def test_old_clients_get_no_chunks(self):
        server = self.serve()
        body = {"prompt": "The cow", "max_tokens": 3, "stream": True}
        for connection in [b"", b"Connection: Keep-Alive\r\n"]:
            data = server.raw(posted(body, HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + connection))
            head, _, events = data.partition(b"\r\n\r\n")
            self.assertIn(b" 200 OK", head)
            self.assertNotIn(b"transfer-encoding", head.lower())
            self.assertTrue(all(e.startswith((b"data: ", b":")) for e in events.strip().split(b"\n\n")), events)
            self.assertTrue(events.endswith(b"data: [DONE]\n\n"), events)


class TimeLimitTest(ConnectionTest):
    def test_an_answer_ends_with_what_there_is(self):
        server = self.serve("--request-timeout", 3)
        whole = server.post(TEXT, ENDLESS)
        self.assertEqual((whole["choices"][0]["finish_reason"], whole["duo"]["finish"]), ("length", "time_limit"))
        self.assertGreater(whole["usage"]["completion_tokens"], 0)
        self.assertTrue(whole["choices"][0]["text"])
        stream = server.stream(body=ENDLESS).read_all()
        self.assertTrue(stream.done)
        self.assertEqual(stream.events[-1]["choices"][0]["finish_reason"], "length")
        self.assertEqual(stream.events[-1]["duo"]["finish"], "time_limit")
        server.wait_for_states()
        self.assertEqual(server.complete("The cow", 2)[2]["duo"]["finish"], "length")

    def test_an_answer_of_nothing_is_an_error(self):
        server = self.serve("--request-timeout", 0.2, "--chunk", 16, "--threads", 1)
        answer = server.request("POST", TEXT, {"prompt": [5] * 30000, "max_tokens": 1})
        self.assert_error(answer, 503, "server_error", "time_limit", needle="0.2 s")
        self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)
        server.wait_for_states()


class NamesTest(ConnectionTest):
    def test_allowed_hosts(self):
        server = self.serve("--allowed-host", "duo.example", "--allowed-host", "other.example")
        for host in ["duo.example", "OTHER.example:80", "localhost:1", "127.0.0.1"]:
            self.assertEqual(server.request("GET", "/v1/models", headers={"Host": host}).status, 200, host)
        answer = server.request("GET", "/v1/models", headers={"Host": "evil.example"})
        self.assert_error(answer, 403, "invalid_request_error", needle='"evil.example"')

    def test_public_url(self):
        server = self.serve("--public-url", "https://LLM.example/")
        server.wait_for_log("https://llm.example/")
        own = {"Host": "llm.example", "Origin": "https://llm.example"}
        answer = server.request("POST", TEXT, {"prompt": "a", "max_tokens": 1}, {**JSON_HEADER, **own})
        self.assertEqual(answer.status, 200, answer.body)
        answer = server.request("GET", "/v1/models", headers={**own, "Origin": "https://evil.example"})
        self.assert_error(answer, 403, "invalid_request_error", needle="public URL")
        for url in ["llm.example", "https://llm.example/path", "ftp://llm.example"]:
            self.fails(2, "--public-url", "serve", "--model", "demo", "--port", 0, "--public-url", url)

    def test_browsers_may_send_the_fields_of_their_clients(self):
        server = self.serve("--cors", "https://app.example")
        wanted = "authorization,content-type,x-stainless-arch,x-stainless-retry-count"
        answer = server.request("OPTIONS", TEXT, headers={
            "Origin": "https://app.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": wanted})  # fmt: skip
        self.assertEqual(answer.status, 204)
        self.assertEqual(answer.headers["Access-Control-Allow-Headers"], wanted)
        self.assertGreaterEqual(int(answer.headers["Access-Control-Max-Age"]), 600)

    def test_an_ipv6_address_is_printed_as_a_url_has_it(self):
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError:
            self.skipTest("SKIPPED: no IPv6 here")
        server = self.serve("--host", "::1")
        server.wait_for_log("http://[::1]:%d/" % server.port)
        self.fails(1, "[::1]:%d: " % server.port, "serve", "--model", "demo", "--host", "::1", "--port", server.port)


if __name__ == "__main__":
    main()
