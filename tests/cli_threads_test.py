"""The results of `duo` do not depend on the threads that it is given. Usage: cli_threads_test.py PATH/TO/duo"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

import cli_harness
from cli_harness import HANG_SECONDS, MODEL, QUESTION, CliTest, main, read_safetensors


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

    def test_a_limit_on_threads_gives_fewer_threads_and_says_so(self):
        if os.getuid() != 0:
            self.skipTest("SKIPPED: needs root, to run as a user who has no other processes")
        # The limit counts what the user runs, and root is above it: a user number that nobody has.
        prefix = ["setpriv", "--reuid", "54321", "--clear-groups", "prlimit", "--nproc=3"]
        with tempfile.TemporaryDirectory() as open_to_all:
            os.chmod(open_to_all, 0o755)
            subprocess.run(["cp", "-r", cli_harness.DUO, MODEL, open_to_all], check=True)
            program = os.path.join(open_to_all, os.path.basename(cli_harness.DUO))
            model = os.path.join(open_to_all, MODEL.name)
            args = ["generate", "--model", model, "--prompt", QUESTION, "--max-tokens", "5", "--threads", "8"]
            result = subprocess.run([*prefix, program, *args], capture_output=True, timeout=HANG_SECONDS)
            self.assertEqual(result.returncode, 0, result.stderr.decode())
            self.assertIn(b"48213", result.stdout)
            self.assertRegex(result.stderr.decode(), r"--threads 8: the system allows 3 threads")
            self.assertEqual(result.stderr.decode().count("libgomp"), 0)


if __name__ == "__main__":
    main()
