"""Tests the status of `duo serve`, and runs the examples of docs/http_api.md. Usage: serve_docs_test.py PATH/TO/duo"""

import json
import re
import shlex
import subprocess
import time

from cli_harness import HANG_SECONDS, QUESTION, SOURCE, main
from serve_harness import ENDLESS, EXACT, PROSE, ServeTest, SharedServerTest

PAGE = (SOURCE / "docs" / "http_api.md").read_text()
FENCE = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^    duo (serve .*) --port 8080$", re.MULTILINE)


class TokensTest(SharedServerTest):
    flags = EXACT

    def test_text_to_tokens_and_back(self):
        for text in ["hello", QUESTION, "", "caf\u00e9 \u20ac \U0001f600", "a\u0000b", "  \n\t "]:
            answer = self.server.post("/tokenize", {"content": text})
            self.assertEqual(sorted(answer), ["count", "max_context", "tokens"])
            self.assertEqual((answer["count"], answer["max_context"]), (len(answer["tokens"]), 32768))
            self.assertEqual(answer["tokens"][0], 1022)
            bare = self.server.post("/tokenize", {"content": text, "add_special": False})["tokens"]
            self.assertEqual(bare, answer["tokens"][1:])
            self.assertEqual(self.server.post("/detokenize", {"tokens": bare}), {"content": text})
            self.assertEqual(self.server.post("/tokenize", {"prompt": text}), answer)
            only = self.server.post("/tokenize", {"content": text, "count_only": True})
            self.assertEqual(only, {"count": answer["count"], "max_context": 32768})

    def test_tokens_are_those_of_completions(self):
        ids = self.server.post("/tokenize", {"content": QUESTION})["tokens"]
        whole = self.server.complete(QUESTION, 1)[2]
        self.assertEqual(whole["usage"]["prompt_tokens"], len(ids))
        self.assertEqual(self.server.complete(ids, 1)[2]["usage"]["prompt_tokens"], len(ids))

    def test_models_and_health(self):
        listed = self.server.get("/v1/models")
        self.assertEqual((listed["object"], len(listed["data"])), ("list", 1))
        model = self.server.get("/v1/models/demo")
        self.assertEqual(listed["data"], [model])
        self.assertEqual((model["id"], model["object"], model["owned_by"]), ("demo", "model", "duo"))
        self.assertLess(abs(model["created"] - time.time()), 86400)
        self.assertEqual(self.server.get("/health"), {"status": "ok"})
        self.assertEqual(self.server.get("/v1/models/"), listed)
        for path in ["/", "/health", "/app.js", "/v1/models"]:
            self.assertEqual(self.server.request("HEAD", path).status, 200, path)

    def test_page_is_served_with_a_policy(self):
        answer = self.server.request("GET", "/")
        self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        self.assertIn("default-src 'none'", answer.headers["Content-Security-Policy"])
        self.assertEqual(self.server.request("GET", "/index.html").body, answer.body)
        for path in ["/../etc/passwd", "/%2e%2e/etc/passwd", "/no.js"]:
            self.assertEqual(self.server.request("GET", path).status, 404, path)


class StatusTest(ServeTest):
    def test_status_has_what_the_page_promises(self):
        server = self.serve(*EXACT, "--model-name", "small", "--queue", 9, "--chat-template", "llama3")
        status = server.status()
        self.assertEqual(sorted(status), ["memory", "model", "pattern", "queue", "sequences", "uptime_s"])
        self.assertEqual(status["model"], {
            "id": "small", "n_layers": 4, "n_kv_heads": 4, "n_heads": 8, "head_dim": 32, "weights": "bf16",
            "kv_type": "f32", "compute": "f32", "max_context": 32768, "chat": "Llama 3"})  # fmt: skip
        pattern = status["pattern"]
        self.assertEqual([pattern[key] for key in ["name", "sparsity", "sink", "recent"]], ["demo", 0.5, 16, 64])
        self.assertEqual([len(row) for row in pattern["gates"] + pattern["retrieval"]], [4] * 8)
        self.assertEqual(sum(map(sum, pattern["retrieval"])), 8)
        gates = sorted((g, r) for row, kept in zip(pattern["gates"], pattern["retrieval"]) for g, r in zip(row, kept))
        self.assertEqual([r for _, r in gates], [0] * 8 + [1] * 8, "the heads with the largest gates are retrieval heads")
        memory = status["memory"]
        self.assertEqual(memory["kv_bytes_per_token"], {"duo": 2048, "full": 4096})  # 16 heads of 32 dimensions in f32
        self.assertEqual(memory["kv_fixed_bytes"]["full"], 0)
        self.assertEqual((memory["promised_bytes"], memory["kept_bytes"]), (0, 0))
        self.assertEqual((status["queue"], status["sequences"]), ({"waiting": 0, "limit": 9}, []))
        _, _, whole = server.complete(QUESTION, 4, model="small", duo={"cache": "anna"})
        kept = server.status()["sequences"]
        self.assertEqual([(s["id"], s["state"], s["name"]) for s in kept], [(None, "kept", "anna")])
        self.assertEqual(kept[0]["tokens"], whole["usage"]["total_tokens"] - 1, "the last token was never fed back")
        self.assertEqual(kept[0]["kv_bytes"], whole["duo"]["kv_bytes"])
        self.assertGreaterEqual(server.status()["uptime_s"], status["uptime_s"])

    def test_status_of_running_and_waiting_requests(self):
        server = self.serve("--parallel", 1)
        running = server.stream(body={**ENDLESS, "duo": {"ignore_eos": True, "cache": "long"}})
        running.next()
        body = json.dumps({"prompt": QUESTION, "max_tokens": 4}).encode()
        connection = server.connect()
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        server.wait_for_states("decode", "waiting")
        status = server.status()
        states = {s["state"]: s for s in status["sequences"]}
        self.assertEqual(status["queue"]["waiting"], 1)
        self.assertEqual((states["decode"]["name"], states["decode"]["prompt_tokens"]), ("long", 3))
        self.assertGreater(states["decode"]["generated_tokens"], 0)
        self.assertGreater(states["decode"]["seconds"], 0)
        self.assertRegex(states["waiting"]["id"], r"^cmpl-\d+$")
        self.assertGreater(status["memory"]["promised_bytes"], states["decode"]["kv_bytes"])
        self.assertTrue(server.get("/v1/sessions")["data"][0]["busy"])
        running.disconnect()
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        answer.read()
        connection.close()

    def test_metrics_count(self):
        server = self.serve(*EXACT, "--snapshot-every", 64)
        route = 'route="/v1/completions",status="%d"'
        prompt = PROSE * 10
        first = server.complete(prompt + "Who?", 5, duo={"ignore_eos": True})[2]
        second = server.complete(prompt + "What?", 7, duo={"ignore_eos": True})[2]
        server.stream(body={"prompt": "a", "max_tokens": 3, "duo": {"ignore_eos": True}}).read_all()
        self.assertEqual(server.request("POST", "/v1/completions", {"nonsense": 1}).status, 400)
        self.assertEqual(server.request("POST", "/v1/completions", {"prompt": "a", "model": "b"}).status, 404)
        values = server.metrics()
        self.assertEqual([values.get(("duo_responses_total", route % s)) for s in [200, 400, 404]], [3, 1, 1])
        n_prompt = first["usage"]["prompt_tokens"] + second["usage"]["prompt_tokens"] + 2
        self.assertEqual(values["duo_prompt_tokens_total", ""], n_prompt)
        cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertGreater(cached, 0)
        self.assertEqual(values["duo_cached_tokens_total", ""], cached)
        self.assertEqual(values["duo_generated_tokens_total", ""], 5 + 7 + 3)
        self.assertEqual(values["duo_cancelled_requests_total", ""], 0)
        self.assertEqual(values["duo_queue_seconds_count", ""], 3)
        self.assertEqual(values["duo_first_token_seconds_count", ""], 3)
        self.assertEqual(values["duo_token_seconds_count", ""], 4 + 6 + 2)
        self.assertEqual(values["duo_decode_step_sequences_total", ""], 4 + 6 + 2)
        self.assertEqual(values["duo_waiting_requests", ""], 0)
        self.assertEqual(values["duo_running_requests", ""], 0)
        status = server.status()
        self.assertEqual(values["duo_kept_sequences", ""], len(status["sequences"]))
        self.assertEqual(values["duo_kv_kept_bytes", ""], status["memory"]["kept_bytes"])
        self.assertGreater(values["duo_resident_bytes", ""], 1 << 20)
        self.check_histogram(values, "duo_token_seconds")
        self.assertEqual(server.metric("duo_responses_total", 'route="/metrics",status="200"'), 1)

    def check_histogram(self, values, name):
        buckets = [(labels[4:-1], n) for (key, labels), n in values.items() if key == name + "_bucket"]
        bounds = [float(bound) for bound, _ in buckets]
        self.assertEqual(bounds, sorted(bounds))
        self.assertEqual(bounds[-1], float("inf"))
        counts = [n for _, n in buckets]
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(counts[-1], values[name + "_count", ""])

    def test_log_has_bodies_only_when_asked(self):
        quiet = self.serve()
        quiet.complete("a very private text", 1)
        talkative = self.serve("--log-prompts")
        talkative.complete("a very public text\n\u001b[31m", 1)
        quiet.wait_for_log("POST /v1/completions 200")
        self.assertNotIn("private", quiet.log_text())
        talkative.wait_for_log("very public text")
        self.assertNotIn("\u001b", talkative.log_text())


class ExamplesTest(ServeTest):
    """The page promises that its examples run as they are written against its command."""

    def setUp(self):
        super().setUp()
        self.start(COMMAND.search(PAGE))

    def start(self, command):
        self.assertIsNotNone(command, "the page begins with a command")
        flags = shlex.split(command.group(1))
        self.assertEqual(flags[:5], ["serve", "--model", "demo", "--pattern", "demo"])
        self.server = self.serve(*flags[5:], cwd=self.dir)

    def run_commands(self, block):
        block = block.replace("127.0.0.1:8080", "127.0.0.1:%d" % self.server.port)
        run = subprocess.run(["bash", "-euo", "pipefail", "-c", block], capture_output=True, text=True, cwd=self.dir,
                             timeout=HANG_SECONDS)  # fmt: skip
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def check(self, text, command):
        self.assertNotIn('"error"', text, command)
        if "data: " in text:
            lines = [line for line in text.splitlines() if line and not line.startswith(":")]
            self.assertEqual(lines[-1], "data: [DONE]", command)
            for line in lines[:-1]:
                self.assertIn("choices", json.loads(line.removeprefix("data: ")), command)
            return
        self.assertIsInstance(json.loads(text), dict, command)

    def test_page_has_examples(self):
        self.assertGreaterEqual(len(FENCE.findall(PAGE)), 6)

    def test_examples_run(self):
        matches = [*FENCE.finditer(PAGE), *list(COMMAND.finditer(PAGE))[1:]]
        for match in sorted(matches, key=lambda match: match.start()):
            if match.re is COMMAND:
                self.end(self.server)
                self.start(match)
                continue
            # One command at a time: curl prints no line break between the answers of a block.
            for command in re.split(r"\n(?=curl )", match.group(1).strip()):
                with self.subTest(command=command):
                    self.check(self.run_commands(command), command)

    def test_every_route_of_the_table_is_there(self):
        self.server.complete("Once upon a time", 4, duo={"cache": "tale"})
        rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
        routes = re.findall(r"`(GET|POST|DELETE) (/[^`]*)`", " ".join(rows))
        self.assertGreaterEqual(len(routes), 9)
        for method, path in routes:
            answer = self.server.request(method, path.replace("{id}", "demo").replace("{name}", "tale"),
                                         {} if method == "POST" else None)  # fmt: skip
            self.assertNotIn("there is nothing at", answer.body.decode(), path)

    def test_fields_of_the_tables_are_known(self):
        sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
        completions = next(s for s in sections if s.startswith("Completions"))
        own = next(s for s in sections if s.startswith("The key"))
        rows = re.findall(r"^\| (`.*?) \|", completions, re.MULTILINE)
        names = [n.split(".")[0] for row in rows for n in re.findall(r"`([a-z_.]+)`", row)]
        self.assertGreaterEqual(len(names), 15)
        wrong = {"not": ["of any field's type"]}
        for name in names:
            answer = self.server.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1, name: wrong})
            self.assertNotIn("has no such field", answer.body.decode(), name)
        for name in [n for row in re.findall(r"^\| (`.*?) \|", own, re.MULTILINE) for n in re.findall(r"`(\w+)`", row)]:
            body = {"messages": [{"role": "user", "content": "a"}], "duo": {name: wrong}}
            answer = self.server.request("POST", "/v1/chat/completions", body)
            self.assertEqual((answer.status, answer.error()["param"]), (400, "duo." + name))
            self.assertNotIn("has no such field", answer.body.decode(), name)


if __name__ == "__main__":
    main()
