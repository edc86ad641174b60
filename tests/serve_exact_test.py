"""`duo serve` gives the texts of `duo generate`, whatever its requests share. Usage: serve_exact_test.py PATH/TO/duo"""

import json
import shutil

from cli_harness import FACTS, QUESTION, main
from serve_harness import ENDLESS, EXACT, JSON_HEADER, PROSE, Answer, ServeTest, in_threads, wait_until

DOCUMENT = FACTS + PROSE * 240  # 3,500 tokens
QUESTIONS = ["\nWhat is the secret code of Anna?\nAnswer: ", "\nWhat is the secret code of Boris?\nAnswer: "]
ANSWERS = ["48213", "70956"]
PIECE = 128  # tokens; with f32, prefixes are reused in multiples of it


class ConcurrentTest(ServeTest):
    def prompts(self):
        return [("The cow feeds the barn. " * (1 + 5 * i)) + QUESTION[i:] for i in range(12)]

    def test_together_as_one_at_a_time_and_as_generate(self):
        server = self.serve(*EXACT, "--snapshot-every", 64)
        jobs = [(prompt, 8 + 3 * i) for i, prompt in enumerate(self.prompts())]
        expected = [self.generate(prompt, n) for prompt, n in jobs]
        together = in_threads([lambda p=p, n=n: server.complete(p, n)[0] for p, n in jobs])
        self.assertEqual(together, expected)
        self.assertGreater(server.metric("duo_decode_step_sequences_total"), server.metric("duo_decode_steps_total"))
        self.assertEqual([server.complete(p, n)[0] for p, n in jobs], expected)

    def test_more_requests_than_may_run(self):
        server = self.serve(*EXACT, "--parallel", 2, "--chunk", 64)
        jobs = [(prompt, 6) for prompt in self.prompts()]
        expected = [self.generate(prompt, n) for prompt, n in jobs]
        self.assertEqual(in_threads([lambda p=p, n=n: server.complete(p, n)[0] for p, n in jobs]), expected)

    def test_while_another_text_is_generated(self):
        server = self.serve(*EXACT)
        running = server.stream(body=ENDLESS)
        running.next()
        self.assertEqual(server.complete(DOCUMENT + QUESTIONS[0], 8)[0], self.generate(DOCUMENT + QUESTIONS[0], 8))
        running.disconnect()
        server.wait_for_states()

    def test_pattern_none_beside_the_servers(self):
        server = self.serve(*EXACT)
        prompt = DOCUMENT + QUESTIONS[0]
        fields = [{}, {"duo": {"pattern": "none"}}, {"duo": {"pattern": "demo"}}, {"duo": {"sparsity": 0.5}}]
        expected = [self.generate(prompt, 40), self.generate(prompt, 40, pattern="none")]
        answers = in_threads([lambda f=f: server.complete(prompt, 40, **f) for f in fields])
        self.assertEqual([a[0] for a in answers], [expected[0], expected[1], expected[0], expected[0]])
        self.assertEqual([a[2]["duo"]["sparsity"] for a in answers], [0.5, 0, 0.5, 0.5])
        again = [server.complete(prompt, 40, **f) for f in fields]
        self.assertEqual([a[0] for a in again], [a[0] for a in answers])
        self.assertTrue(all(a[1] > 0 for a in again))


class PrefixTest(ServeTest):
    def setUp(self):
        super().setUp()
        self.server = self.serve(*EXACT, "--snapshot-every", 256)

    def same_as_fresh(self, prompt, n=12, at_least=1, **fields):
        text, cached, whole = self.server.complete(prompt, n, **fields)
        self.assertEqual(text, self.generate(prompt, n))
        self.assertGreaterEqual(cached, at_least)
        self.assertLess(cached, whole["usage"]["prompt_tokens"])
        return whole

    def test_the_same_prompt_again(self):
        first = self.same_as_fresh(DOCUMENT + QUESTIONS[0], at_least=0)
        self.assertEqual(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        n_prompt = first["usage"]["prompt_tokens"]
        self.same_as_fresh(DOCUMENT + QUESTIONS[0], at_least=n_prompt - 256)

    def test_a_prompt_that_goes_on(self):
        text, n_read = FACTS + PROSE * 20, 0
        for i in range(5):
            whole = self.same_as_fresh(text + QUESTIONS[i % 2], 12, at_least=n_read // 256 * 256)
            text += QUESTIONS[i % 2] + whole["choices"][0]["text"] + " The farmer grows the cow.\n"
            n_read = whole["usage"]["prompt_tokens"]

    def test_the_same_tokens_and_what_was_generated(self):
        ids = self.server.post("/tokenize", {"content": DOCUMENT})["tokens"]
        whole = self.server.complete(ids, 64, duo={"ignore_eos": True})[2]
        more = self.server.post("/tokenize", {"content": whole["choices"][0]["text"], "add_special": False})["tokens"]
        text, cached, _ = self.server.complete(ids + more + ids[1:40], 16)
        self.assertGreaterEqual(cached, len(ids) // PIECE * PIECE)
        self.assertEqual(text, self.generate(ids + more + ids[1:40], 16))

    def test_what_was_generated_is_not_read_again_without_f32(self):
        server = self.serve("--snapshot-every", 256)
        ids = server.post("/tokenize", {"content": DOCUMENT})["tokens"]
        whole = server.complete(ids, 64, duo={"ignore_eos": True})[2]
        more = server.post("/tokenize", {"content": whole["choices"][0]["text"], "add_special": False})["tokens"]
        self.assertGreater(server.complete(ids + more + ids[1:40], 16)[1], len(ids))

    def test_read_anew_on_request(self):
        prompt = DOCUMENT + QUESTIONS[0]
        self.server.complete(prompt, 12)
        for fields in [{}, {"duo": {"cache": "book"}}]:
            with self.subTest(fields=fields):
                self.server.complete(prompt, 12, **fields)
                text, cached, _ = self.server.complete(prompt, 12, cache_prompt=False, **fields)
                self.assertEqual((text, cached), (self.generate(prompt, 12), 0))
                self.assertGreater(self.server.complete(prompt, 12, cache_prompt=True, **fields)[1], 3000)

    def log_probs(self, prompt, **fields):
        whole = self.server.complete(prompt, 8, logprobs=5, **fields)[2]
        return whole["choices"][0]["logprobs"], whole["usage"]["prompt_tokens_details"]["cached_tokens"]

    def test_log_probs_are_the_same_whatever_is_cached_or_runs_beside(self):
        prompt = DOCUMENT + QUESTIONS[0]
        cold, cached = self.log_probs(prompt)
        self.assertEqual(cached, 0)
        warm, cached = self.log_probs(prompt)
        self.assertGreater(cached, 3000)
        running = self.server.stream(body=ENDLESS)
        running.next()
        beside = in_threads([lambda f=f: self.log_probs(prompt, cache_prompt=f)[0] for f in (False, True, True)])
        running.disconnect()
        self.assertEqual([warm, *beside], [cold] * 4)

    def test_an_earlier_part_is_edited(self):
        head, tail = PROSE * 60, PROSE * 60
        long = head + FACTS + tail
        self.same_as_fresh(long + QUESTIONS[0], at_least=0)
        edited = head + FACTS.replace("48213", "31764") + tail
        whole = self.same_as_fresh(edited + QUESTIONS[0], at_least=700)
        self.assertTrue(whole["choices"][0]["text"].startswith("31764"))
        whole = self.same_as_fresh(long + QUESTIONS[0], at_least=1000)
        self.assertTrue(whole["choices"][0]["text"].startswith("48213"))
        self.same_as_fresh(head + QUESTIONS[0], at_least=500)
        self.same_as_fresh("The" + long + QUESTIONS[1], at_least=0)

    def test_two_questions_at_once_on_one_document(self):
        self.server.complete(DOCUMENT, 0)
        jobs = [(DOCUMENT + question, 5) for question in QUESTIONS]
        answers = in_threads([lambda p=p, n=n: self.server.complete(p, n) for p, n in jobs * 2])
        self.assertEqual([a[0] for a in answers], ANSWERS * 2)
        self.assertTrue(all(a[1] >= 3000 for a in answers), [a[1] for a in answers])
        self.assertEqual([self.generate(p, n) for p, n in jobs], ANSWERS)

    def test_two_questions_at_once_on_a_document_nobody_has_read(self):
        jobs = [(DOCUMENT + question, 12) for question in QUESTIONS]
        expected = [self.generate(p, n) for p, n in jobs]
        self.assertEqual([a[0] for a in in_threads([lambda p=p, n=n: self.server.complete(p, n) for p, n in jobs])],
                         expected)  # fmt: skip

    def test_a_cancelled_requests_tokens_are_used(self):
        stream = self.server.stream(body={"prompt": DOCUMENT + QUESTIONS[0], "max_tokens": 20000, "temperature": 0,
                                          "duo": {"ignore_eos": True}})  # fmt: skip
        for _ in range(5):
            stream.next()
        stream.disconnect()
        self.server.wait_for_states()
        self.same_as_fresh(DOCUMENT + QUESTIONS[1], at_least=3000)


class PrefillRecentTest(ServeTest):
    flags = ["--recent", 32, "--prefill-recent", 256]

    def test_prompts_and_answers_have_windows_of_their_own(self):
        server = self.serve(*EXACT, *self.flags, "--snapshot-every", 128)
        text = FACTS + PROSE * 30
        for i in range(4):
            prompt = text + QUESTIONS[i % 2]
            answer, cached, _ = server.complete(prompt, 40, duo={"ignore_eos": True})
            self.assertEqual(answer, self.generate(prompt, 40, *self.flags, "--ignore-eos"))
            self.assertEqual(cached > 0, i > 0)
            text = prompt + answer + "\n" + PROSE
        edited = FACTS.replace("48213", "31764") + PROSE * 30 + QUESTIONS[0]
        self.assertEqual(server.complete(edited, 8)[0], self.generate(edited, 8, *self.flags))


class SessionTest(ServeTest):
    def sessions(self, server):
        return {s["name"]: s for s in server.get("/v1/sessions")["data"]}

    def test_saved_and_restored_by_a_request(self):
        flags = [*EXACT, "--session-dir", self.dir / "sessions", "--snapshot-every", 256]
        first = self.serve(*flags)
        first.complete(DOCUMENT, 0, duo={"cache": "book"})
        saved = first.request("POST", "/v1/sessions/book/save").json()
        self.assertEqual((saved["name"], saved["in_memory"], saved["on_disk"]), ("book", True, True))
        self.assertGreater(saved["disk_bytes"], saved["kv_bytes"] // 2)
        self.assertEqual(first.stop(), 0)
        second = self.serve(*flags)
        entry = self.sessions(second)["book"]
        self.assertEqual((entry["in_memory"], entry["on_disk"], entry["tokens"]), (False, True, saved["tokens"]))
        for question, expected in zip(QUESTIONS, ANSWERS):
            text, cached, _ = second.complete(DOCUMENT + question, 5, duo={"cache": "book"})
            self.assertEqual((text, self.generate(DOCUMENT + question, 5)), (expected, expected))
            self.assertGreaterEqual(cached, saved["tokens"] - 256)
        self.assertTrue(self.sessions(second)["book"]["in_memory"])

    def test_saved_and_restored_by_name(self):
        flags = [*EXACT, "--session-dir", self.dir / "sessions"]
        first = self.serve(*flags)
        first.complete(DOCUMENT, 30, duo={"cache": "book", "ignore_eos": True})
        saved = first.request("POST", "/v1/sessions/book/save").json()
        first.stop()
        second = self.serve(*flags)
        restored = second.request("POST", "/v1/sessions/book/restore")
        self.assertEqual(restored.status, 200, restored.body)
        self.assertEqual(restored.json(), saved)
        text, cached, _ = second.complete(DOCUMENT, 30, duo={"cache": "book", "ignore_eos": True})
        self.assertEqual(text, self.generate(DOCUMENT, 30, "--ignore-eos"))
        self.assertGreater(cached, 3000)

    def test_many_requests_at_once_for_a_session_on_disk(self):
        flags = [*EXACT, "--session-dir", self.dir / "sessions", "--snapshot-every", 256]
        first = self.serve(*flags)
        first.complete(DOCUMENT, 0, duo={"cache": "book"})
        self.assertEqual(first.request("POST", "/v1/sessions/book/save").status, 200)
        first.stop()
        names = ["book%d" % i for i in range(8)]
        for name in names:
            shutil.copy(self.dir / "sessions" / "book.session", self.dir / "sessions" / (name + ".session"))
        second = self.serve(*flags)
        for name in names:
            answers = self.ask_at_once(second, {"prompt": QUESTION, "max_tokens": 5, "temperature": 0,
                                                "duo": {"cache": name}}, 16)  # fmt: skip
            self.assertEqual([a.status for a in answers], [200] * 16, [a.body for a in answers])
            self.assertEqual([a.json()["choices"][0]["text"] for a in answers], [ANSWERS[0]] * 16)

    def ask_at_once(self, server, body, n):
        """The answers to n requests. All are sent before the first answer is read."""
        connections = [server.connect() for _ in range(n)]
        for connection in connections:
            connection.connect()
        for connection in connections:
            connection.request("POST", "/v1/completions", json.dumps(body), JSON_HEADER)
        answers = [Answer(connection.getresponse()) for connection in connections]
        for connection in connections:
            connection.close()
        return answers

    def test_autosave(self):
        flags = [*EXACT, "--session-dir", self.dir / "sessions", "--autosave", "--snapshot-every", 256]
        first = self.serve(*flags)
        first.complete(DOCUMENT, 4, duo={"cache": "book"})
        first.complete(QUESTION, 4, duo={"cache": "small"})
        tokens = {name: s["tokens"] for name, s in self.sessions(first).items()}
        self.assertEqual(sorted(tokens), ["book", "small"])
        self.assertEqual(first.stop(), 0)
        second = self.serve(*flags)
        self.assertEqual({name: s["tokens"] for name, s in self.sessions(second).items()}, tokens)
        text, cached, _ = second.complete(DOCUMENT + QUESTIONS[1], 5, duo={"cache": "book"})
        self.assertEqual(text, ANSWERS[1])
        self.assertGreater(cached, 3000)

    def test_saving_while_other_requests_run(self):
        server = self.serve(*EXACT, "--session-dir", self.dir / "sessions")
        server.complete(DOCUMENT, 0, duo={"cache": "book"})
        expected = self.generate(QUESTION, 40)

        def save():
            return server.request("POST", "/v1/sessions/book/save").status == 200

        texts = in_threads([lambda: server.complete(QUESTION, 40)[0]] * 4 + [save] * 1)
        self.assertEqual(texts, [expected] * 4 + [True])
        wait_until(lambda: not self.sessions(server)["book"]["busy"], "the session is free")
        self.assertEqual(server.complete(DOCUMENT + QUESTIONS[0], 5, duo={"cache": "book"})[0], ANSWERS[0])

    def test_sessions_of_a_request_with_its_own_heads(self):
        flags = [*EXACT, "--session-dir", self.dir / "sessions"]
        first = self.serve(*flags)
        own = {"cache": "own", "sparsity": 0.75, "recent": 32}
        expected = first.complete(DOCUMENT + QUESTIONS[0], 20, duo=own)[0]
        self.assertEqual(first.request("POST", "/v1/sessions/own/save").status, 200)
        first.stop()
        second = self.serve(*flags)
        text, cached, whole = second.complete(DOCUMENT + QUESTIONS[0], 20, duo=own)
        self.assertEqual((text, whole["duo"]["sparsity"]), (expected, 0.75))
        self.assertGreater(cached, 3000)
        answer = second.request("POST", "/v1/completions", {"prompt": "a", "duo": {"cache": "own"}})
        self.assert_error(answer, 400, "invalid_request_error", None, "duo.cache", "another pattern, sparsity")


if __name__ == "__main__":
    main()
