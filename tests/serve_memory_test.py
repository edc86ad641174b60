"""Tests how `duo serve` shares its memory between sequences. Usage: serve_memory_test.py PATH/TO/duo"""

import json

from cli_harness import main
from serve_harness import ENDLESS, JSON_HEADER, ServeTest, in_threads, is_sanitized

TEXT = "/v1/completions"


def room_of(memory):
    """The bytes that sequences may take, by the memory of a status."""
    return memory["budget_bytes"] - memory["weights_bytes"] - memory["workspace_bytes"] - memory["requests_bytes"]


class MemoryTest(ServeTest):
    # 2,048 bytes for each token with f32, beside windows of fixed size
    flags = ["--compute", "f32", "--memory", "40MiB"]

    def test_what_never_fits(self):
        server = self.serve(*self.flags)
        memory = server.status()["memory"]
        room = room_of(memory)
        n = room // 2048 + 200
        answer = server.request("POST", TEXT, {"prompt": "a", "max_tokens": n})
        message = self.assert_error(answer, 400, "invalid_request_error", "memory_exceeded")
        numbers = r"^%d tokens need [\d.]+ [KMG]iB, but this server has [\d.]+ [KMG]iB for sequences"
        self.assertRegex(message, numbers % (n + 2))
        answer = server.request("POST", TEXT, {"prompt": "a", "max_tokens": n, "stream": True})
        self.assert_error(answer, 400, "invalid_request_error", "memory_exceeded")
        n_full = room * 3 // 4 // 2048
        answer = server.request("POST", TEXT, {"prompt": "a", "max_tokens": n_full, "duo": {"pattern": "none"}})
        self.assert_error(answer, 400, "invalid_request_error", "memory_exceeded")
        self.assertEqual(server.status()["memory"]["promised_bytes"], 0)

    def test_what_fits_later_waits(self):
        server = self.serve(*self.flags)
        memory = server.status()["memory"]
        room = room_of(memory)
        n = room * 6 // 10 // 2048
        first = server.stream(body={**ENDLESS, "max_tokens": n})
        first.next()
        second = server.connect()
        second.request("POST", TEXT, json.dumps({"prompt": [9] * (n - 2), "max_tokens": 2}), JSON_HEADER)
        server.wait_for_states("decode", "waiting")
        for _ in range(20):
            first.next()
        self.assertEqual(len(server.in_state("waiting")), 1)
        self.assertLessEqual(server.status()["memory"]["promised_bytes"], room)
        first.disconnect()
        response = second.getresponse()
        self.assertEqual((response.status, json.loads(response.read())["usage"]["prompt_tokens"]), (200, n - 2))
        second.close()

    def test_kept_sequences_give_way(self):
        server = self.serve(*self.flags)
        memory = server.status()["memory"]
        room = room_of(memory)
        n = room * 3 // 10 // 2048
        server.complete([7] * n, 2, duo={"cache": "named"})
        for i in range(8):
            server.complete([100 + i] * n, 2)
            status = server.status()
            self.assertLessEqual(status["memory"]["promised_bytes"] + status["memory"]["kept_bytes"], room)
            held = sum(s["kv_bytes"] for s in status["sequences"])
            self.assertLessEqual(held, status["memory"]["kept_bytes"], "sequences hold no more than was counted")
        kept = server.in_state("kept")
        self.assertEqual(len(kept), 3)
        self.assertIn("named", [s["name"] for s in kept], "sequences without a name are freed first")
        self.assertEqual(server.metric("duo_evicted_sequences_total"), 1 + 8 - 3)
        if not is_sanitized():
            self.assertLess(server.metric("duo_resident_bytes"), memory["budget_bytes"] + (48 << 20))

    def test_many_at_once_stay_within_the_budget(self):
        server = self.serve(*self.flags, "--snapshot-every", 64)
        memory = server.status()["memory"]
        room = room_of(memory)
        prompts = [[10 + i] * (300 + 100 * i) for i in range(16)]
        texts = in_threads([lambda p=p: server.complete(p, 8)[0] for p in prompts])
        status = server.status()
        self.assertLessEqual(status["memory"]["kept_bytes"], room)
        self.assertEqual(status["memory"]["promised_bytes"], 0)
        self.assertEqual(texts[5], server.complete(prompts[5], 8)[0])

    def test_windows_beyond_the_context_take_no_memory_for_good(self):
        server = self.serve("--memory", "512MiB")

        def budgets():
            memory = server.status()["memory"]
            return memory["budget_bytes"], memory["workspace_bytes"], server.metric("duo_kv_budget_bytes")

        before = budgets()
        for window in [{"sink": 2000000}, {"sink": 1 << 30, "recent": 1 << 30}, {"recent": 1 << 30}]:
            with self.subTest(window=window):
                body = {"prompt": "hi", "max_tokens": 1, "duo": {"sparsity": 0.0625, **window}}
                self.assertEqual(server.post("/v1/completions", body)["usage"]["completion_tokens"], 1)
                self.assertEqual(budgets(), before)
        largest = {**ENDLESS, "duo": {"ignore_eos": True, "sparsity": 0.0625, "recent": 30000}}
        running = server.stream(body=largest)
        running.next()
        total, workspace, for_sequences = budgets()
        self.assertGreater(workspace, before[1], "the status shows the larger workspace")
        self.assertEqual(workspace + for_sequences, before[1] + before[2], "sequences have less memory while it is larger")
        self.assertEqual(total, before[0])
        running.disconnect()
        server.wait_for_states()
        self.assertEqual(budgets(), before)

    def test_log_probs_of_one_answer_are_bounded(self):
        server = self.serve("--max-context", 100000)
        body = {"prompt": "a", "max_tokens": 60000, "logprobs": 20}
        answer = server.request("POST", TEXT, body)
        self.assert_error(answer, 400, "invalid_request_error", None, "logprobs", "60000 tokens, each with 20 others")
        stream = server.stream(body=body)
        self.assertIn("choices", stream.next())
        stream.disconnect()

    def test_too_little_for_any_sequence(self):
        self.fails(1, "--memory", "serve", "--model", "demo", "--port", 0, "--memory", "4MiB")


if __name__ == "__main__":
    main()
