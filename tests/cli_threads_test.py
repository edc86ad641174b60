"""The results of `duo` do not depend on its number of threads. Usage: cli_threads_test.py PATH/TO/duo"""

import json
import os
import resource
import subprocess
import unittest.mock

import cli_harness
from cli_harness import HANG_SECONDS, MODEL, QUESTION, CliTest, main, read_safetensors
from serve_harness import ENDLESS, ServeTest, wait_until


def run(args, env=None, prefix=()):
    command = [*prefix, cli_harness.DUO, *[str(a) for a in args]]
    return subprocess.run(
        command, capture_output=True, timeout=HANG_SECONDS, env={**os.environ, **(env or {})}
    )


class ThreadsTest(CliTest):
    def logits(self, compute, threads, env=None):
        out = os.path.join(self.dir, "logits.safetensors")
        ids = os.path.join(self.dir, "ids.json")
        with open(ids, "w") as file:
            json.dump([1 + i * 7 % 400 for i in range(300)], file)
        result = run(
            ["logits", "--model", MODEL, "--ids", ids, "--positions", "last", "--out", out]
            + ["--compute", compute, "--threads", threads]
            + (["--weights", "int8"] if compute == "int8" else []),
            env,
        )
        self.assertEqual(result.returncode, 0, result.stderr.decode())
        return read_safetensors(out)["logits"][2]

    def test_limits_on_openmp_change_nothing(self):
        limits = [
            {"OMP_THREAD_LIMIT": "1"},
            {"OMP_DYNAMIC": "true"},
            {"OMP_MAX_ACTIVE_LEVELS": "0"},
            {"OMP_NUM_THREADS": "1"},
        ]
        for compute in ["f32", "bf16", "int8"]:
            plain = self.logits(compute, 4)
            for env in limits:
                with self.subTest(compute=compute, env=env):
                    self.assertEqual(self.logits(compute, 4, env), plain)

    def test_text_is_the_same_under_limits(self):
        args = ["generate", "--model", MODEL, "--prompt", QUESTION, "--max-tokens", "5", "--threads", "4"]
        plain = run(args)
        self.assertIn(b"48213", plain.stdout)
        limited = run(args, {"OMP_THREAD_LIMIT": "1", "OMP_DYNAMIC": "true"})
        self.assertEqual(limited.stdout, plain.stdout)


class LimitTest(ServeTest):
    """Runs duo under a limit on processes and threads. The limit counts per user, and does not apply to root."""

    user = 50000 + os.getpid() % 10000  # an id that no other user has

    def setUp(self):
        super().setUp()
        if os.getuid() != 0:
            self.skipTest("SKIPPED: needs root, to run as a user who has no other processes")
        self.dir.chmod(0o777)
        subprocess.run(["cp", "-r", cli_harness.DUO, MODEL, self.dir], check=True)
        program = self.dir / os.path.basename(cli_harness.DUO)
        patch = unittest.mock.patch.object(cli_harness, "DUO", str(program))
        patch.start()
        self.addCleanup(patch.stop)
        self.model = self.dir / MODEL.name

    def limits(self, n):
        return {
            "user": self.user,
            "extra_groups": [],
            # LeakSanitizer starts a thread of its own at the end.
            "env": {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"},
            "preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (n, n)),
        }

    def limited(self, n, *args):
        command = [cli_harness.DUO, *[str(a) for a in args]]
        return subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, **self.limits(n))

    def serve_limited(self, n, *flags):
        return self.serve("--threads", 4, *flags, model=self.model, pattern="none", **self.limits(n))

    def test_generate_works_with_fewer_threads_and_says_so(self):
        args = ["generate", "--model", self.model, "--prompt", QUESTION, "--max-tokens", 5, "--threads", 8]
        result = self.limited(3, *args)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("48213", result.stdout)
        self.assertIn("--threads 8: the system allows 3 threads", result.stderr)
        self.assertNotIn("libgomp", result.stderr)

    def test_a_server_without_threads_says_so_before_its_address(self):
        for n in range(1, 5):
            with self.subTest(n=n):
                result = self.limited(n, "serve", "--model", self.model, "--port", 0, "--threads", 4)
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertRegex(result.stderr, r"\Aduo: error: a server needs 4 threads .* the system allows %d;" % (n - 1))
                self.assertIn("ulimit -u", result.stderr)
                self.assertEqual(result.stderr.count("\n"), 1)

    def test_a_server_has_threads_before_the_computation(self):
        for n, n_compute in [(5, "1 thread"), (8, "2 threads")]:
            with self.subTest(n=n):
                server = self.serve_limited(n)
                self.assertIn("--threads 4: the system allows %s (" % n_compute, server.log_text())
                self.assertEqual(server.complete("The cow", 2)[2]["usage"]["completion_tokens"], 2)
                self.assertEqual(server.stop(), 0, server.log_text())

    def test_silent_connections_give_their_threads(self):
        server = self.serve_limited(5)
        kept = []
        for _ in range(2):
            connection = server.connect()
            self.addCleanup(connection.close)
            connection.request("GET", "/health")
            self.assertEqual(connection.getresponse().read(), b'{"status":"ok"}')
            kept.append(connection)
        # It takes a moment until their threads wait again.
        wait_until(lambda: server.request("GET", "/health").status == 200, "a thread for another client")

    def test_connections_without_a_thread_are_refused_and_others_go_on(self):
        server = self.serve_limited(5)
        streams = [server.stream(body=ENDLESS) for _ in range(2)]
        for stream in streams:
            stream.next()
        answer = server.request("GET", "/health")
        self.assert_error(answer, 503, "server_error", needle="too many connections")
        self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)
        lines = [line for line in server.log_text().splitlines() if "the system allows no more threads" in line]
        self.assertEqual(len(lines), 1, server.log_text())
        for stream in streams:
            self.assertIsNotNone(stream.next())
            stream.disconnect()
        wait_until(lambda: server.request("GET", "/health").status == 200, "a thread of a client that left")


if __name__ == "__main__":
    main()
