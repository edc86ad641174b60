"""Tests the limits of `duo serve`: keys, sites, sizes, times, the queue. Usage: serve_limits_test.py PATH/TO/duo"""

import contextlib
import json
import socket

from cli_harness import HANG_SECONDS, main
from serve_harness import ENDLESS, JSON_HEADER, PROSE, ServeTest, read_to_end, wait_until

TEXT = "/v1/completions"
KEY = "sesame-and-more"


def unread_bytes(port):
    """The number of bytes that this local TCP port has sent and that the receiver has not read."""
    total = 0
    with open("/proc/net/tcp") as lines:
        for line in list(lines)[1:]:
            _, local, remote, _, queues = line.split()[:5]
            sent, received = (int(queue, 16) for queue in queues.split(":"))
            total += sent if int(local.split(":")[1], 16) == port else 0
            total += received if int(remote.split(":")[1], 16) == port else 0
    return total


class KeyTest(ServeTest):
    def setUp(self):
        super().setUp()
        self.server = self.serve("--api-key-file", self.file("key", KEY + "\n"))

    def test_key_is_asked_for(self):
        right = {"Authorization": "Bearer " + KEY}
        self.assertEqual(self.server.get("/v1/models", right)["data"][0]["id"], "demo")
        answer = self.server.request("POST", TEXT, {"prompt": "a", "max_tokens": 1}, {**right, **JSON_HEADER})
        self.assertEqual(answer.status, 200)
        wrong = [None, "", KEY, "Bearer", "Bearer ", "Bearer " + KEY[:-1], "Bearer " + KEY + "x", "Basic " + KEY,
                 "Bearer " + KEY.upper(), "bearer " + KEY[:-1] + "X", "Bearer " + "\u00e9" * 50]  # fmt: skip
        for value in wrong:
            headers = {} if value is None else {"Authorization": value.encode("utf-8")}
            for method, path in [("GET", "/v1/models"), ("GET", "/v1/models/demo"), ("GET", "/v1/status"),
                                 ("GET", "/metrics"), ("GET", "/v1/sessions"), ("DELETE", "/v1/sessions/x"),
                                 ("POST", "/v1/sessions/x/save"), ("GET", "/v1/nothing"), ("POST", TEXT),
                                 ("POST", "/v1/chat/completions"), ("POST", "/tokenize"),
                                 ("POST", "/detokenize")]:  # fmt: skip
                body = {"prompt": "a"} if method == "POST" else None
                answer = self.server.request(method, path, body, {**headers, **(JSON_HEADER if body else {})})
                self.assert_error(answer, 401, "authentication_error", "invalid_api_key")
                self.assertEqual(answer.headers["WWW-Authenticate"], "Bearer")
                self.assertNotIn(KEY, answer.body.decode())
        self.assertNotIn(KEY, self.server.log_text())

    def test_what_is_open_without_it(self):
        self.assertEqual(self.server.get("/health"), {"status": "ok"})
        self.assertEqual(self.server.request("GET", "/").status, 200)
        self.assertEqual(self.server.request("GET", "/app.js").status, 200)

    def test_odd_spellings_of_a_path_do_not_open_it(self):
        for path in ["/v1/../metrics", "//metrics", "/metrics/", "/%6detrics", "/metrics?x=/", "/v1%2fstatus",
                     "/./metrics", "/metrics%00", "/v1/status?"]:  # fmt: skip
            answer = self.server.request("GET", path)
            self.assertIn(answer.status, [400, 401, 404], path)
            self.assertNotIn(b"duo_", answer.body, path)


class SiteTest(ServeTest):
    def test_host_of_another_site(self):
        server = self.serve()
        own = ["127.0.0.1", "127.0.0.1:%d" % server.port, "localhost:99", "[::1]:80", "127.1.2.3"]
        for host in own:
            self.assertEqual(server.request("GET", "/health", headers={"Host": host}).status, 200, host)
        for host in ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1",
                     "127.evil.example", "[::2]", "[fe80::1]:80"]:  # fmt: skip
            for path in ["/", "/v1/models", "/health"]:
                with self.subTest(host=host, path=path):
                    answer = server.request("GET", path, headers={"Host": host})
                    self.assert_error(answer, 403, "invalid_request_error", needle="its own machine")

    def test_cors_only_when_asked(self):
        plain = self.serve()
        browser = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        for method in ["GET", "OPTIONS"]:
            answer = plain.request(method, "/v1/models", headers=browser)
            self.assertNotIn("Access-Control-Allow-Origin", answer.headers)
        self.assertGreaterEqual(plain.request("OPTIONS", TEXT, headers=browser).status, 400)
        asked = self.serve("--cors", "https://app.example")
        answer = asked.request("OPTIONS", TEXT, headers=browser)
        self.assertEqual(answer.status, 204)
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "https://app.example")
        self.assertIn("Content-Type", answer.headers["Access-Control-Allow-Headers"])
        self.assertIn("POST", answer.headers["Access-Control-Allow-Methods"])
        for path, status in [("/v1/models", 200), ("/v1/nothing", 404)]:
            answer = asked.request("GET", path, headers=browser)
            self.assertEqual(answer.status, status)
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "https://app.example")

    def test_page_can_be_left_out(self):
        server = self.serve("--no-page")
        self.assertEqual(server.request("GET", "/").status, 404)
        self.assertEqual(server.get("/health"), {"status": "ok"})


class SizeTest(ServeTest):
    patient = ["--idle-timeout", 2]  # a connection that stays open by mistake delays the test only this long

    def one_answer(self, data, status):
        head, _, body = data.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 %d " % status), data[:400])
        self.assertEqual(data.count(b"HTTP/1.1 "), 1, data)
        self.assertEqual(json.loads(body)["error"]["type"], "invalid_request_error")

    def test_header_too_large(self):
        server = self.serve(*self.patient)
        lines = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(70))
        self.one_answer(server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n"), 431)
        line = b"X: " + b"a" * 70000 + b"\r\n"
        self.one_answer(server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\n"), 431)
        lines = b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(50))
        data = server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + lines + b"\r\n")
        self.assertTrue(data.startswith(b"HTTP/1.1 200 "), data)

    def test_body_too_large(self):
        server = self.serve("--max-body", "64KiB", *self.patient)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for size in [(64 << 10) + 1, 8 << 20]:
            with self.subTest(size=size):
                self.one_answer(server.raw(head + b"Content-Length: %d\r\n\r\n" % size + b" " * size), 413)
        for size in [68 << 10, 8 << 20]:
            with self.subTest(chunked=size):
                chunks = (b"1000\r\n" + b" " * 4096 + b"\r\n") * (size // 4096) + b"0\r\n\r\n"
                self.one_answer(server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks), 413)
        with self.subTest("announced only"):
            self.one_answer(server.raw(head + b"Content-Length: 1000000000000\r\n\r\n", end_of_input=True), 413)
        body = b'{"prompt":"a","max_tokens":1}' + b" " * ((64 << 10) - 29)
        self.assertEqual(server.request("POST", TEXT, body, JSON_HEADER).status, 200)
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        data = server.raw(head + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)
        self.assertTrue(data.startswith(b"HTTP/1.1 200 "), data)

    def test_too_many_large_bodies_at_once(self):
        server = self.serve("--max-body", "8MiB", "--memory", "6GiB")
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        body = b'{"prompt":"a","max_tokens":1}' + b" " * ((8 << 20) - 29)
        begun = []
        for _ in range(2):  # as many as there is room for
            sock = socket.create_connection(("127.0.0.1", server.port), timeout=HANG_SECONDS)
            self.addCleanup(sock.close)
            sock.sendall(head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-1])
            begun.append(sock)
            wait_until(lambda port=sock.getsockname()[1]: unread_bytes(port) == 0, "the server has read the body")
        data = server.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.assertTrue(data.startswith(b"HTTP/1.1 503 "), data[:400])
        self.assertIn(b"\r\nRetry-After: ", data)
        self.assertEqual(json.loads(data.partition(b"\r\n\r\n")[2])["error"]["type"], "server_error")
        self.assertEqual(server.complete("The cow", 2)[2]["usage"]["completion_tokens"], 2)  # small ones still fit
        for sock in begun:
            sock.sendall(body[-1:])
            self.assertTrue(read_to_end(sock).startswith(b"HTTP/1.1 200 "))
        whole = head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        wait_until(lambda: server.raw(whole).startswith(b"HTTP/1.1 200 "), "room for a large body")

    def test_prompts_of_some_thousand_tokens_wait_together(self):
        server = self.serve("--memory", "96MiB")
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        body = b'{"prompt":"a","max_tokens":1}' + b" " * ((20 << 10) - 29)
        for _ in range(40):  # their bodies have not arrived completely
            sock = socket.create_connection(("127.0.0.1", server.port), timeout=HANG_SECONDS)
            self.addCleanup(sock.close)
            sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
            wait_until(lambda port=sock.getsockname()[1]: unread_bytes(port) == 0, "the server has read the body")
        data = server.raw(head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.assertTrue(data.startswith(b"HTTP/1.1 200 "), data[:400])

    def test_prompt_too_long(self):
        server = self.serve("--max-context", 2048)
        answer = server.request("POST", TEXT, {"prompt": PROSE * 200, "max_tokens": 1})
        message = self.assert_error(answer, 400, "invalid_request_error", "context_length_exceeded", needle="2048")
        n_prompt = server.post("/tokenize", {"content": PROSE * 200})["count"]
        self.assertIn(str(n_prompt), message)
        answer = server.request("POST", TEXT, {"prompt": "a", "max_tokens": 2047})
        self.assert_error(answer, 400, "invalid_request_error", "context_length_exceeded", needle="2047")
        ids = [1022] + [5] * 2047
        self.assertEqual(server.complete(ids, 0)[2]["usage"]["prompt_tokens"], 2048)
        full = server.complete(ids[:2040], 8, duo={"ignore_eos": True})[2]
        self.assertEqual((full["usage"]["completion_tokens"], full["choices"][0]["finish_reason"]), (8, "length"))
        short = self.serve("--max-prompt-tokens", 100)
        answer = short.request("POST", TEXT, {"prompt": PROSE * 20})
        self.assert_error(answer, 400, "invalid_request_error", "context_length_exceeded", needle="at most 100")


class SlowClientTest(ServeTest):
    def open(self, server, data=b""):
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=HANG_SECONDS)
        self.addCleanup(sock.close)
        sock.sendall(data)
        return sock

    def test_silent_clients_are_dropped_while_others_are_served(self):
        server = self.serve("--idle-timeout", 1)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        silent = [self.open(server, data) for data in [
            b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: lo", head + b"Content-Length: 100\r\n\r\n{",
            head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"]]  # fmt: skip
        self.assertEqual(server.get("/health"), {"status": "ok"})
        self.assertEqual(server.complete("The cow", 2)[2]["usage"]["completion_tokens"], 2)
        for sock in silent:  # returns when the server closes the connection
            self.assertNotIn(b"HTTP/1.1 200", read_to_end(sock))
        self.assertEqual(server.get("/health"), {"status": "ok"})

    def test_client_that_does_not_read(self):
        server = self.serve("--idle-timeout", 1)
        body = json.dumps({**ENDLESS, "stream": True, "logprobs": 20}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        sock = socket.socket()
        self.addCleanup(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: server.in_state("decode"), "the request runs")
        self.assertEqual(server.complete("The cow", 2)[2]["usage"]["completion_tokens"], 2)
        server.wait_for_states()
        self.assertEqual(server.metric("duo_cancelled_requests_total"), 1)


class QueueTest(ServeTest):
    def send(self, server, body):
        connection = server.connect()
        self.addCleanup(connection.close)
        connection.request("POST", TEXT, json.dumps(body), JSON_HEADER)
        return connection

    def hang_up(self, connection):
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    def test_full_queue(self):
        server = self.serve("--parallel", 1, "--queue", 2)
        running = server.stream(body=ENDLESS)
        running.next()
        waiting = [self.send(server, {"prompt": "The cow", "max_tokens": 2}) for _ in range(2)]
        server.wait_for_states("decode", "waiting", "waiting")
        for stream in [False, True]:
            answer = server.request("POST", TEXT, {"prompt": "a", "stream": stream})
            self.assert_error(answer, 429, "rate_limit_error", "queue_full", needle="2 requests wait")
            self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)
        self.assertEqual(server.metric("duo_waiting_requests"), 2)
        running.disconnect()
        for connection in waiting:
            response = connection.getresponse()
            self.assertEqual(response.status, 200)
            response.read()
        self.assertEqual(server.complete("The cow", 2)[2]["usage"]["completion_tokens"], 2)

    def test_batch_larger_than_the_queue(self):
        """Such a batch can never fit, so the answer is not 429."""
        server = self.serve("--queue", 4)
        answer = server.request("POST", TEXT, {"prompt": ["a"] * 8, "max_tokens": 1})
        self.assert_error(answer, 400, "invalid_request_error", None, "prompt", "4")

    def test_places_of_clients_that_left_are_free(self):
        server = self.serve("--parallel", 1, "--queue", 2)
        running = server.stream(body=ENDLESS)
        running.next()
        waiting = [self.send(server, {"prompt": "The cow", "max_tokens": 2}) for _ in range(2)]
        server.wait_for_states("decode", "waiting", "waiting")
        for connection in waiting:
            self.hang_up(connection)
        # A request that keeps running shows that the server had enough time to notice.
        n = running.next() and len(running.events)
        while len(running.events) < n + 2000 and server.status()["queue"]["waiting"] > 0:
            running.next()
        self.assertEqual(server.status()["queue"]["waiting"], 0, "clients that left hold places in the queue")
        running.disconnect()
        server.wait_for_states()

    def test_client_leaves_a_stream(self):
        server = self.serve()
        stream = server.stream(body=ENDLESS)
        for _ in range(3):
            stream.next()
        server.wait_for_states("decode")
        stream.disconnect()
        server.wait_for_states()
        values = server.metrics()
        self.assertEqual(values["duo_cancelled_requests_total", ""], 1)
        self.assertEqual(values["duo_running_requests", ""], 0)
        self.assertGreaterEqual(values["duo_generated_tokens_total", ""], 3)
        self.assertLess(values["duo_generated_tokens_total", ""], 30000)

    def test_client_leaves_while_its_prompt_is_read(self):
        server = self.serve("--chunk", 16, "--threads", 1)
        connection = self.send(server, {"prompt": [5] * 30000, "max_tokens": 1})
        server.wait_for_states("prefill")
        self.hang_up(connection)
        server.wait_for_states()
        self.assertEqual(server.metric("duo_cancelled_requests_total"), 1)
        kept = server.in_state("kept")
        self.assertEqual(len(kept), 1)
        self.assertLess(kept[0]["tokens"], 30000)

    def test_client_leaves_without_its_answer(self):
        server = self.serve()
        connection = self.send(server, ENDLESS)
        server.wait_for_states("decode")
        self.hang_up(connection)
        server.wait_for_states()
        self.assertEqual(server.metric("duo_cancelled_requests_total"), 1)
        self.assertLess(server.metric("duo_generated_tokens_total"), 30000)


if __name__ == "__main__":
    main()
