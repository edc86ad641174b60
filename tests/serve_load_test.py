"""The load test of `duo serve` (bench/serve_load.py) at small size. Usage: serve_load_test.py PATH/TO/duo

A program that is built with a sanitizer gets the same requests, and the server's log must have no report of it."""

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import cli_harness
from cli_harness import HANG_SECONDS

BENCH = cli_harness.SOURCE / "bench"
sys.path.insert(0, str(BENCH))

import serve_load  # noqa: E402
from serve_client import Connection, Server, call  # noqa: E402
from serve_requests import Case, Plan, learn_answers, make_cases  # noqa: E402

MODEL_FLAGS = ["--model", "demo", "--pattern", "demo", "--sparsity", "0.5", "--compute", "f32"]


class LoadTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="duo_serve_load_test_")
        self.addCleanup(folder.cleanup)
        self.dir = pathlib.Path(folder.name)

    def test_answers_and_resources_under_load(self):
        arguments = [cli_harness.DUO, "--requests", "150", "--warm-up", "60", "--clients", "8", "--queue", "3"]
        options = serve_load.parser().parse_args([*arguments, "--parallel", "4", "--documents", "300,700,1200"])
        report = asyncio.run(serve_load.run(options, self.dir))
        self.assertEqual(report["problems"], [])
        # The load was real: all requests were sent, some clients left, some asked again, prefixes were reused.
        self.assertEqual(report["completed"] + report["left"], 150)
        self.assertGreater(report["completed"], 75)
        self.assertGreater(report["left"], 10)
        self.assertGreater(report["cached_tokens"], 0)
        self.assertLessEqual(set(report["statuses"]), {200, 429})

    def test_a_long_prompt_is_read_beside_all_others(self):
        arguments = [cli_harness.DUO, "--requests", "40", "--warm-up", "10", "--clients", "2", "--documents", ""]
        options = serve_load.parser().parse_args([*arguments, "--long", "1500"])
        report = asyncio.run(serve_load.run(options, self.dir))
        self.assertEqual(report["problems"], [])
        self.assertEqual(report["completed"] + report["left"], 40)
        self.assertGreater(report["long_prompts"], 0)

    def test_reference_is_what_generate_says(self):
        server = Server(cli_harness.DUO, self.dir, MODEL_FLAGS)
        try:
            cases = asyncio.run(make_cases(server.port, [300], 7))
            cases = [case for case in cases if case.duo == {"ignore_eos": True}][:3]
            asyncio.run(learn_answers(server.port, cases))
        finally:
            self.assertEqual(server.stop(), 0)
        self.assertEqual(len(cases), 3)
        for case in cases:
            text = case.prompt if isinstance(case.prompt, str) else None
            path = self.dir / "prompt"
            path.write_text(text if text is not None else str(case.prompt))
            run = cli_harness.duo("generate", *MODEL_FLAGS, "--prompt-file" if text is not None else "--ids", path,
                                  "--max-tokens", len(case.pieces), "--ignore-eos", "--json")  # fmt: skip
            self.assertEqual(run.code, 0, run.err)
            self.assertEqual("".join(case.pieces), run.json()["text"])

    def test_a_wrong_answer_is_seen(self):
        """The load test itself must report a problem when it expects something else."""

        async def load(port, case):
            tally = serve_load.Tally()
            plans = [Plan(case, 4, stream) for stream in (False, True)] + [Plan(case, 4, True, chunks=2)]
            await serve_load.run_load(port, plans, 1, 1, tally)
            return tally

        async def ask(port):
            case = Case("The secret code of Anna is", {"ignore_eos": True})
            await learn_answers(port, [case])
            good = await load(port, case)
            case.pieces = ["?", *case.pieces[1:]]
            bad = await load(port, case)
            case.n_prompt = 0
            case.duo = {"no such field": 1}
            refused = await load(port, case)
            status, _ = await call(port, "GET", "/health")
            return good, bad, refused, status

        server = Server(cli_harness.DUO, self.dir, MODEL_FLAGS)
        try:
            good, bad, refused, status = asyncio.run(ask(server.port))
        finally:
            server.stop()
        self.assertEqual((good.wrong, good.failures), ([], []))
        # The last client leaves after two events, but on a busy machine all four tokens may come in these.
        self.assertGreaterEqual(good.counts["completed"], 2)
        self.assertEqual(good.counts["completed"] + good.counts["left"], 3)
        self.assertEqual((len(bad.wrong), bad.failures), (3, []))
        self.assertEqual((refused.wrong, len(refused.failures), dict(refused.statuses)), ([], 3, {400: 3}))
        self.assertEqual(status, 200)

    def test_interrupt_stops_the_server_too(self):
        command = [sys.executable, "-B", BENCH / "serve_load.py", cli_harness.DUO, "--requests", "100000"]
        env = {**os.environ, "TMPDIR": str(self.dir)}
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
        try:
            while client.poll() is None and not list(self.dir.glob("*/log")):
                time.sleep(0.01)
            client.send_signal(signal.SIGINT)
            out, err = client.communicate(timeout=HANG_SECONDS)
        finally:
            if client.poll() is None:
                client.kill()
        self.assertEqual((client.returncode, out, err), (130, "", "interrupted\n"))
        self.assertEqual(list(self.dir.iterdir()), [])
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.assertNotIn(str(self.dir), path.read_bytes().decode(errors="replace"))
            except OSError:
                pass  # the process has ended


class QueueTest(unittest.TestCase):
    """Which requests wait, and for what, while a long text is being generated."""

    def run_beside_long(self, flags, session, scenario):
        """Runs scenario(port) after a long stream has begun. Returns whether the stream outlasted the scenario."""

        async def run(port):
            long = Connection(port)
            duo = {"ignore_eos": True, "cache": session}
            body = {"prompt": [5, 6], "max_tokens": 8000, "temperature": 0, "stream": True, "duo": duo}
            await long.send("POST", "/v1/completions", body)
            self.assertEqual(await long.head(), 200)
            async for _ in long.events():
                break
            try:
                await scenario(port)
                return "decode" in await self.states(port)
            finally:
                long.close()

        with tempfile.TemporaryDirectory() as folder:
            server = Server(cli_harness.DUO, pathlib.Path(folder), [*MODEL_FLAGS, *flags])
            try:
                return asyncio.run(run(server.port))
            finally:
                server.stop()

    async def states(self, port):
        _, status = await call(port, "GET", "/v1/status")
        return [sequence["state"] for sequence in status["sequences"]]

    async def until(self, port, n_waiting):
        """Waits until so many requests wait, or until no text is generated. A status may lag one step of the model."""
        states = await self.states(port)
        while states.count("waiting") != n_waiting and ("decode" in states or "prefill" in states):
            await asyncio.sleep(0.05)
            states = await self.states(port)

    async def ask(self, port, **more):
        connection = Connection(port)
        await connection.send("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1, "temperature": 0, **more})
        return connection

    def test_a_waiting_client_that_leaves_gives_its_place_back(self):
        async def scenario(port):
            waiting = [await self.ask(port) for _ in range(2)]
            await self.until(port, 2)
            refused = await self.ask(port)
            self.assertEqual(await refused.head(), 429)
            for connection in [*waiting, refused]:
                connection.close()
            await self.until(port, 0)

        self.assertTrue(self.run_beside_long(["--parallel", "1", "--queue", "2"], "long", scenario))

    def test_a_busy_session_keeps_only_its_own_requests_waiting(self):
        async def scenario(port):
            same = await self.ask(port, duo={"cache": "long"})
            await self.until(port, 1)
            other = await self.ask(port)
            self.assertEqual(await other.head(), 200)
            other.close()
            same.close()

        self.assertTrue(self.run_beside_long(["--parallel", "4"], "long", scenario))


if __name__ == "__main__":
    cli_harness.main()
