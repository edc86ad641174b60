#!/usr/bin/env python3
"""Load test of `duo serve` on the demo model: are answers the same under load, and does the server keep its limits?

    bench/serve_load.py [build/release/bin/duo] [--requests 2000] [--clients 32] [--json]

First asks a fresh server every prompt, one at a time, to learn the expected answers. Then sends the requests of a
seeded plan to another server. Their prompts have 20..4000 tokens, and many share long prefixes. There are edited
documents, requests with other heads, streams and named sessions. In a third of the requests the client leaves at some
moment. With `--long N` one more client sends prompts of N tokens all the time.

The exit code is 1 if an answer was wrong, a request failed or the server did not end well. It is also 1 if memory grew
after the warm-up or exceeded --memory, or if threads or open files did not go back to their numbers before the load.
All idle sequences are removed before memory, threads and files are measured. Ctrl-C ends the test with 130.

The times include the client, which runs on the same machine, so they do not measure the server's speed. Needs only
Python.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import math
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile
import time

from serve_client import Connection, Server, call
from serve_requests import Plan, learn_answers, make_cases, make_plans

REQUEST_SECONDS = 600  # time limit of a request
SETTLE_SECONDS = 60  # within this time the server closes the connections of clients that left
CALM_SECONDS = 2  # time to measure how few threads and files a server without clients needs
RETRY_SECONDS = 0.1  # wait after a 429; Retry-After is meant for ordinary clients
OUTSIDE_BUDGET_BYTES = 40 << 20  # not in --memory: the program, its threads, requests and answers
PIPE_ERRORS = (ConnectionError, asyncio.IncompleteReadError, OSError)


class Tally:
    """The results of the requests."""

    def __init__(self):
        self.counts = collections.Counter()
        self.statuses = collections.Counter()
        self.wrong: list[str] = []
        self.failures: list[str] = []
        self.n_tokens = self.n_cached = self.n_prompt = 0
        self.first_token_s: list[float] = []
        self.between_tokens_s: list[float] = []
        self.whole_answer_s: list[float] = []
        self.long_s: list[float] = []  # whole answers to long prompts
        self.load_s = 0.0

    def check(self, plan: Plan, text: str, finish: str, usage: dict) -> None:
        """Compares a whole answer with the expected one."""
        expected = plan.case.expected(plan.max_tokens)
        found = (text, finish, usage["completion_tokens"])
        self.counts["completed"] += 1
        self.n_tokens += usage["completion_tokens"]
        self.n_prompt += usage["prompt_tokens"]
        self.n_cached += usage["prompt_tokens_details"]["cached_tokens"]
        if found != expected or usage["prompt_tokens"] != plan.case.n_prompt:
            self.add_wrong(plan, found, expected, usage)

    def add_wrong(self, plan: Plan, found, expected, usage=None) -> None:
        self.wrong.append(
            f"prompt of {plan.case.n_prompt} tokens, max_tokens {plan.max_tokens}, stream {plan.stream}, "
            f"session {plan.session or None}, duo {plan.case.duo}, usage {usage}: {found!r}, expected {expected!r}"
        )

    def fail(self, plan: Plan, what: str) -> None:
        self.failures.append(f"{what} (prompt of {plan.case.n_prompt} tokens, session {plan.session or None})")


class Client:
    """Runs one plan after the other. Keeps its connection until a request fails or leaves."""

    def __init__(self, port: int, tally: Tally, rng: random.Random):
        self.port = port
        self.connection = Connection(port)
        self.tally = tally
        self.rng = rng

    async def work(self, plans) -> None:
        for plan in plans:
            try:
                await asyncio.wait_for(self.one(plan), REQUEST_SECONDS)
            except PIPE_ERRORS as error:
                self.tally.fail(plan, "connection: %r" % error)
                self.connection.close(reset=True)
            except asyncio.TimeoutError:
                self.tally.fail(plan, "no answer")
                self.connection.close(reset=True)
            except (ValueError, KeyError, IndexError) as error:
                self.tally.fail(plan, "malformed answer: %r" % error)
                self.connection.close(reset=True)
        self.connection.close()

    async def one(self, plan: Plan) -> None:
        if plan.aside is not None:
            await self.connection.send(*plan.aside)
            status = await self.connection.head()
            await self.connection.body()
            self.tally.counts["others"] += 1
            fine = (200, 404, 409) if plan.aside[0] == "DELETE" else (200,)
            if status not in fine:
                self.tally.fail(plan, "%s %s: status %d" % (*plan.aside, status))
        while not await self.ask(plan):
            self.tally.counts["retries"] += 1
            await asyncio.sleep(RETRY_SECONDS * (0.5 + self.rng.random()))

    async def ask(self, plan: Plan) -> bool:
        """Sends the request of a plan. Returns False if the server refused it with 429 and it must be sent again."""
        begin = time.perf_counter()
        await self.connection.send("POST", "/v1/completions", plan.body(), plan.part)
        if plan.part < 1:
            return self.leave(plan)
        try:
            status = await asyncio.wait_for(self.connection.head(), plan.wait)
        except asyncio.TimeoutError:
            return self.leave(plan)
        self.tally.statuses[status] += 1
        if status == 429:
            await self.connection.body()
            return False
        if status != 200:
            self.tally.fail(plan, "status %d: %r" % (status, (await self.connection.body())[:300]))
        elif plan.stream:
            await self.read_stream(plan, begin)
        else:
            answer = json.loads(await self.connection.body())
            self.tally.whole_answer_s.append(time.perf_counter() - begin)
            choice = answer["choices"][0]
            self.tally.check(plan, choice["text"], choice["finish_reason"], answer["usage"])
        return True

    def leave(self, plan: Plan) -> bool:
        self.tally.counts["left"] += 1
        self.connection.close(plan.reset)
        return True

    async def read_stream(self, plan: Plan, begin: float) -> None:
        text, finish, usage, done = "", None, None, False
        last, n_chunks = begin, 0
        async for event in self.connection.events():
            if event == "[DONE]":
                done = True
                continue
            chunk = json.loads(event)
            if "error" in chunk:
                self.tally.fail(plan, "in the stream: %s" % chunk["error"])
                return self.connection.close()
            usage = chunk.get("usage") or usage
            if chunk["choices"]:
                finish = chunk["choices"][0]["finish_reason"] or finish
                if chunk["choices"][0]["text"]:
                    text += chunk["choices"][0]["text"]
                    now = time.perf_counter()
                    (self.tally.between_tokens_s if n_chunks else self.tally.first_token_s).append(now - last)
                    last, n_chunks = now, n_chunks + 1
            if plan.chunks is not None and n_chunks >= plan.chunks:
                if not plan.case.expected(plan.max_tokens)[0].startswith(text):
                    self.tally.add_wrong(plan, text, plan.case.expected(plan.max_tokens))
                self.leave(plan)
                return
        if not done or usage is None:
            return self.tally.fail(plan, "the stream ended without [DONE] or usage")
        self.tally.check(plan, text, finish, usage)


async def read_long_prompts(port: int, n_tokens: int, rng: random.Random, tally: Tally) -> None:
    """Sends long prompts one after the other until it is cancelled. No two share a prefix."""
    while True:
        body = {"prompt": [rng.randrange(3, 1000) for _ in range(n_tokens)], "max_tokens": 1, "temperature": 0}
        connection, begin = Connection(port), time.perf_counter()
        try:
            await connection.send("POST", "/v1/completions", body)
            status = await connection.head()
            if status not in (200, 429):
                tally.failures.append("a long prompt: %d %r" % (status, (await connection.body())[:300]))
                return
            if status == 429:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                tally.long_s.append(time.perf_counter() - begin)
        finally:
            connection.close()


async def run_load(port: int, plans: list[Plan], n_clients: int, seed: int, tally: Tally, n_long: int = 0) -> None:
    """Runs the plans. n_long: tokens of the long prompts that one more client sends at the same time; 0 = none."""
    begin = time.perf_counter()
    shared = iter(plans)
    clients = [Client(port, tally, random.Random(seed + 2 + i)) for i in range(n_clients)]
    long = [asyncio.create_task(read_long_prompts(port, n_long, random.Random(seed + 1), tally))] if n_long else []
    await asyncio.gather(*(client.work(shared) for client in clients))
    tally.load_s += time.perf_counter() - begin
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)


async def idle_status(port: int) -> dict:
    """Waits until no request runs or waits, and returns the server's status."""
    end = time.monotonic() + REQUEST_SECONDS
    while time.monotonic() < end:
        _, status = await call(port, "GET", "/v1/status")
        if all(sequence["state"] == "kept" for sequence in status["sequences"]):
            return status
        await asyncio.sleep(0.05)
    raise RuntimeError("the server does not become idle: %s" % status["sequences"])


async def push_out(port: int) -> None:
    """Makes the server free its idle sequences: sends one request that reserves nearly all memory, and leaves."""
    memory = (await idle_status(port))["memory"]
    taken = [memory[name + "_bytes"] for name in ("weights", "workspace", "requests")]
    room = memory["budget_bytes"] - sum(taken)
    # Ids and kinds take five bytes more per token.
    n_tokens = int(0.98 * (room - memory["kv_fixed_bytes"]["full"]) / (memory["kv_bytes_per_token"]["full"] + 5))
    connection = Connection(port)
    body = {"prompt": [5], "max_tokens": n_tokens, "stream": True, "temperature": 0}
    await connection.send("POST", "/v1/completions", {**body, "duo": {"pattern": "none", "ignore_eos": True}})
    if (status := await connection.head()) != 200:
        raise RuntimeError("pushing out: %d %r" % (status, await connection.body()))
    async for _ in connection.events():
        break
    connection.close()
    left = (await idle_status(port))["memory"]["kept_bytes"]
    if left > 0.05 * room:
        raise RuntimeError("idle sequences still hold %d bytes" % left)


async def measure(server: Server, calm: dict | None) -> dict:
    """Measures the server's resources with and without its idle sequences.

    Waits until the numbers of threads and files have gone down to those of `calm`, for a limited time.
    """
    kept = (await idle_status(server.port))["memory"]["kept_bytes"]
    full = server.resources()["rss"]
    await push_out(server.port)
    end = time.monotonic() + (CALM_SECONDS if calm is None else SETTLE_SECONDS)
    least: dict = {}
    while True:
        now = server.resources()
        least = {key: min(now[key], least.get(key, now[key])) for key in ("threads", "fds")}
        settled = calm is not None and all(least[key] <= calm[key] for key in least)
        if settled or time.monotonic() > end:
            return {**now, **least, "kept_bytes": kept, "rss_full": full}
        await asyncio.sleep(0.05)


def percentiles(values: list[float]) -> dict | None:
    values = sorted(values)
    if not values:
        return None
    return {f"p{p}_ms": 1e3 * values[min(len(values) - 1, math.ceil(p / 100 * len(values)) - 1)] for p in (50, 90, 99)}


def is_sanitized(duo: str) -> bool:
    """Whether the program contains a sanitizer. Its memory then says nothing about the server."""
    data = pathlib.Path(duo).read_bytes()
    return any(name in data for name in (b"__tsan_init", b"__asan_init"))


def machine() -> dict:
    cpu = [x.split(":")[1].strip() for x in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return {"cpu": cpu[0] if cpu else platform.machine(), "cores": len(os.sched_getaffinity(0))}


async def run(options: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Runs the test and returns the report. Its "problems" are empty if the test passed."""
    duo = str(options.duo)
    model = ["--model", "demo", "--pattern", "demo", "--sparsity", "0.5", "--compute", "f32"]
    documents = [int(n) for n in options.documents.split(",") if n]
    server = Server(duo, folder, model)
    try:
        cases = await make_cases(server.port, documents, options.seed)
        await learn_answers(server.port, cases)
    finally:
        server.stop()
    plans = make_plans(cases, options.requests, options.seed)
    connections = max(64, 2 * options.clients)  # connections of clients that left may stay open for a while
    flags = [*model, "--connections", str(connections), "--parallel", str(options.parallel)]
    flags += ["--queue", str(options.queue)]
    flags += ["--memory", options.memory]
    tally, problems = Tally(), []
    server = Server(duo, folder, flags)
    try:
        budget = (await idle_status(server.port))["memory"]["budget_bytes"]
        calm = await measure(server, None)
        await run_load(server.port, plans[: options.warm_up], options.clients, options.seed, tally, options.long)
        warm = await measure(server, calm)
        await run_load(server.port, plans[options.warm_up :], options.clients, options.seed, tally, options.long)
        after = await measure(server, calm)
    finally:
        code = server.stop()
    log = server.log()
    if code != 0:
        problems.append(f"the server ended with {code}: {log[-2000:]}")
    if "Sanitizer" in log:
        problems.append("a sanitizer reported an error:\n" + log[log.index("Sanitizer") - 200 :][:20000])
    # A connection that is just ending may hold one more of each. A leak would be one for every few requests.
    for key in ("threads", "fds"):
        if after[key] > calm[key] + 1:
            problems.append(f"{key}: {calm[key]} before, {after[key]} after")
    if not is_sanitized(duo) and after["rss"] > 1.02 * warm["rss"] + (4 << 20):
        problems.append(f"memory grew: {warm['rss']} bytes after the warm-up, {after['rss']} at the end")
    if not is_sanitized(duo) and after["peak"] > budget + OUTSIDE_BUDGET_BYTES:
        problems.append(f"memory: {after['peak']} bytes at most, --memory {options.memory}")
    problems += ["wrong answer: " + text for text in tally.wrong] + tally.failures
    version = subprocess.run([duo, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {"problems": problems, "version": version, "machine": machine(), "flags": flags, "prompts": len(cases),
            "requests": len(plans), "clients": options.clients, "seed": options.seed, "wrong": len(tally.wrong),
            **{key: tally.counts[key] for key in ("completed", "left", "retries", "others")},
            "failed": len(tally.failures), "statuses": dict(sorted(tally.statuses.items())), "load_s": tally.load_s,
            "requests_per_s": len(plans) / tally.load_s, "tokens_per_s": tally.n_tokens / tally.load_s,
            "prompt_tokens": tally.n_prompt, "cached_tokens": tally.n_cached,
            "first_token": percentiles(tally.first_token_s), "between_tokens": percentiles(tally.between_tokens_s),
            "whole_answer": percentiles(tally.whole_answer_s),
            "long_prompts": len(tally.long_s), "long_tokens": options.long, "long_answer": percentiles(tally.long_s),
            "calm": calm, "warm": warm, "after": after}  # fmt: skip


def print_report(report: dict) -> None:
    mib = lambda n: f"{n / 2**20:.1f} MiB"  # noqa: E731
    print("{version}, {machine[cpu]}, {machine[cores]} cores; seed {seed}".format(**report))
    print("duo serve " + " ".join(report["flags"]))
    print("{requests} requests of {prompts} prompts, {clients} at a time: {completed} completed, {left} left, {failed} "
          "failed, {wrong} wrong; {retries} times refused with 429; {others} other calls".format(**report))  # fmt: skip
    print("{load_s:.1f} s: {requests_per_s:.1f} requests/s, {tokens_per_s:.1f} tokens/s; {cached_tokens} of "
          "{prompt_tokens} prompt tokens were cached".format(**report))  # fmt: skip
    for key, name in (("first_token", "time to first token"), ("between_tokens", "between tokens of a stream"),
                      ("whole_answer", "whole answers"),
                      ("long_answer", "{long_prompts} prompts of {long_tokens} tokens".format(**report))):  # fmt: skip
        if report[key]:
            print(f"{name}: " + ", ".join(f"{p[:-3]} {ms:.1f} ms" for p, ms in report[key].items()))
    for key, name in (("calm", "at the start"), ("warm", "after the warm-up"), ("after", "at the end")):
        r = report[key]
        print(f"{name}: {mib(r['rss'])} resident ({mib(r['rss_full'])} with {mib(r['kept_bytes'])} kept, peak "
              f"{mib(r['peak'])}), {r['threads']} threads, {r['fds']} files")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("duo", nargs="?", default="build/release/bin/duo", help="The program.")
    parser.add_argument("--requests", type=int, default=2000, help="Number of requests.")
    parser.add_argument("--clients", type=int, default=32, help="Clients that send requests at the same time.")
    parser.add_argument("--warm-up", type=int, default=400, help="Requests before memory is first measured.")
    parser.add_argument("--parallel", type=int, default=8, help="Requests that the server works on at once.")
    parser.add_argument("--queue", type=int, default=20, help="Requests that may wait in the server; others get 429.")
    parser.add_argument("--memory", default="96MiB", help="Server's memory. Small, so that it must drop sequences.")
    parser.add_argument("--documents", default="300,700,1100,1900,2900,3900", help="Tokens of the shared documents.")
    parser.add_argument("--long", type=int, default=0, help="Tokens of the long prompts of one more client; 0 = none.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of the prompts and of the plan.")
    parser.add_argument("--limit", type=float, default=3600, help="Seconds after which the test gives up.")
    parser.add_argument("--json", action="store_true", help="Print the report as one JSON value.")
    return parser


def main() -> int:
    options = parser().parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="duo_serve_load_") as folder:
            report = asyncio.run(asyncio.wait_for(run(options, pathlib.Path(folder)), options.limit))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (asyncio.TimeoutError, RuntimeError) as error:
        print(f"serve_load: {error or 'the time limit (--limit) has passed'}", file=sys.stderr)
        return 1
    print(json.dumps(report)) if options.json else print_report(report)
    for problem in report["problems"][:20]:
        print("PROBLEM: " + problem, file=sys.stderr)
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
