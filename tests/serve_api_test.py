"""Tests the answers of `duo serve`: completions, chats, streams, numbers. Usage: serve_api_test.py PATH/TO/duo"""

import json
import math

from cli_harness import QUESTION, main, read_safetensors
from serve_harness import EXACT, PROSE, SharedServerTest, in_threads

BEGIN = 1022  # begin-of-text of the demo model


class CompletionTest(SharedServerTest):
    flags = EXACT

    def test_answer_has_openais_shape_and_the_right_text(self):
        expected = self.generate(QUESTION, 12)
        self.assertTrue(expected.startswith("48213"))
        text, _, whole = self.server.complete(QUESTION, 12, model="demo")
        self.assertEqual(text, expected)
        self.assertEqual(sorted(whole), ["choices", "created", "duo", "id", "model", "object", "usage"])
        self.assertRegex(whole["id"], r"^cmpl-\d+$")
        self.assertEqual((whole["object"], whole["model"]), ("text_completion", "demo"))
        choice = whole["choices"][0]
        self.assertEqual((choice["index"], choice["finish_reason"], choice["logprobs"]), (0, "length", None))
        n_prompt = len(self.server.post("/tokenize", {"content": QUESTION})["tokens"])
        usage = whole["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"]), (n_prompt, 12))
        self.assertEqual(usage["total_tokens"], n_prompt + 12)
        self.assertEqual(whole["duo"]["sparsity"], 0.5)
        self.assertEqual(whole["duo"]["finish"], "length")
        self.assertGreater(whole["duo"]["kv_bytes"], 0)
        for key in ["queue_s", "prefill_s", "first_token_s", "decode_s", "prefill_tokens_per_s", "decode_tokens_per_s"]:
            self.assertGreaterEqual(whole["duo"]["timings"][key], 0, key)

    def test_defaults(self):
        answer = self.server.post("/v1/completions", {"prompt": "The cow", "duo": {"ignore_eos": True}})
        self.assertEqual(answer["usage"]["completion_tokens"], 16)

    def test_stream_has_the_same_text_and_usage(self):
        body = {"prompt": QUESTION, "max_tokens": 12, "temperature": 0, "stream_options": {"include_usage": True}}
        stream = self.server.stream(body=body).read_all()
        self.assertTrue(stream.response.headers["Content-Type"].startswith("text/event-stream"))
        self.assertTrue(stream.done)
        self.assertEqual(stream.text(), self.generate(QUESTION, 12))
        *chunks, usage = stream.events
        self.assertGreater(len(chunks), 1)
        self.assertEqual(len({e["id"] for e in stream.events}), 1)
        self.assertEqual({e["object"] for e in stream.events}, {"text_completion"})
        self.assertEqual([c["choices"][0]["finish_reason"] for c in chunks], [None] * (len(chunks) - 1) + ["length"])
        self.assertEqual(chunks[-1]["duo"]["finish"], "length")
        self.assertTrue(all("duo" not in c and c["usage"] is None for c in chunks[:-1]))
        self.assertEqual((usage["choices"], usage["usage"]["completion_tokens"]), ([], 12))
        self.assertNotIn("usage", self.server.stream(body={"prompt": "a", "max_tokens": 1}).read_all().events[-1])

    def test_stream_comes_piece_by_piece(self):
        # Tokens that are generated before the server can write are sent together. A busy machine sends a few at a time.
        body = {"prompt": "The cow", "max_tokens": 300, "temperature": 0, "duo": {"ignore_eos": True}}
        self.assertGreaterEqual(len(self.server.stream(body=body).read_all().events), 12)

    def test_stream_tells_how_far_a_long_prompt_is_read(self):
        prompt = PROSE * 250 + "Which?"
        stream = self.server.stream(body={"prompt": prompt, "max_tokens": 1, "temperature": 0}).read_all()
        n_prompt = len(self.server.post("/tokenize", {"content": prompt})["tokens"])
        self.assertGreater(n_prompt, 4 * 512)
        told = [c.split() for c in stream.comments if c.startswith("prefill ")]
        self.assertGreater(len(told), 1, stream.comments)
        self.assertTrue(all(words[2] == "of" and int(words[3]) == n_prompt for words in told), told)
        done = [int(words[1]) for words in told]
        self.assertEqual(done, sorted(set(done)))
        self.assertLessEqual(done[-1], n_prompt)

    def test_stop_ends_the_text_before_it(self):
        whole = self.generate(QUESTION, 12)
        for stop in ["\n", "13", ["never there", "821"]]:
            found = stop if isinstance(stop, str) else stop[1]
            self.assertIn(found, whole)
            text, _, answer = self.server.complete(QUESTION, 12, stop=stop)
            self.assertEqual(text, whole[: whole.index(found)])
            self.assertEqual(answer["choices"][0]["finish_reason"], "stop")
            stream = self.server.stream(body={"prompt": QUESTION, "max_tokens": 12, "temperature": 0, "stop": stop})
            self.assertEqual(stream.read_all().text(), text)
            self.assertEqual(stream.events[-1]["choices"][0]["finish_reason"], "stop")
        text, _, answer = self.server.complete(QUESTION, 12, stop=["never there"] * 16)
        self.assertEqual((text, answer["choices"][0]["finish_reason"]), (whole, "length"))

    def test_seed_decides(self):
        def draw(**fields):
            body = {"prompt": "The", "max_tokens": 24, "temperature": 1.5, **fields}
            return self.server.post("/v1/completions", body)["choices"][0]["text"]

        expected = self.generate("The", 24, "--temperature", 1.5, "--seed", 7)
        self.assertEqual(draw(seed=7), expected)
        self.assertEqual(in_threads([lambda: draw(seed=7)] * 4), [expected] * 4)
        self.assertNotEqual(draw(seed=8), expected)
        self.assertEqual(draw(seed=-1), draw(seed=-1))
        self.assertGreater(len({draw() for _ in range(4)}), 1, "without a seed each answer has a random one")

    def test_samplers_reach_the_engine(self):
        greedy = self.generate(QUESTION, 8)
        common = {"prompt": QUESTION, "max_tokens": 8, "temperature": 2, "seed": 1}
        for fields in [{"top_p": 0}, {"top_p": 1e-9}, {"duo": {"top_k": 1}}, {"duo": {"min_p": 1}}]:
            answer = self.server.post("/v1/completions", {**common, **fields})
            self.assertEqual(answer["choices"][0]["text"], greedy, fields)
        repeats = self.generate(PROSE, 48)
        punished = self.generate(PROSE, 48, "--repetition-penalty", 2)
        self.assertNotEqual(punished, repeats)
        self.assertEqual(self.server.complete(PROSE, 48, duo={"repetition_penalty": 2})[0], punished)
        self.assertNotEqual(self.server.complete("The cow", 48, frequency_penalty=2)[0], self.generate("The cow", 48))
        self.assertNotEqual(self.server.complete("The cow", 48, presence_penalty=2)[0], self.generate("The cow", 48))

    def test_bias_forces_and_forbids_tokens(self):
        token = self.server.post("/tokenize", {"content": "4", "add_special": False})["tokens"]
        self.assertEqual(len(token), 1)
        self.assertEqual(self.server.complete("The cow", 4, logit_bias={str(token[0]): 100})[0], "4444")
        self.assertTrue(self.server.complete(QUESTION, 1)[0].startswith("4"))
        self.assertFalse(self.server.complete(QUESTION, 1, logit_bias={str(token[0]): -100})[0].startswith("4"))

    def test_log_probs_of_generated_tokens(self):
        _, _, answer = self.server.complete(QUESTION, 5, logprobs=3)
        probs = answer["choices"][0]["logprobs"]
        self.assertEqual(sorted(probs), ["text_offset", "token_logprobs", "tokens", "top_logprobs"])
        self.assertEqual([len(probs[key]) for key in sorted(probs)], [5] * 4)
        self.assertEqual("".join(probs["tokens"]), answer["choices"][0]["text"])
        parts = [probs[key] for key in ["text_offset", "tokens", "token_logprobs", "top_logprobs"]]
        for offset, token, own, top in zip(*parts):
            self.assertEqual(answer["choices"][0]["text"][offset : offset + len(token)], token)
            self.assertEqual(len(top), 3)
            self.assertEqual((own, top[token]), (max(top.values()),) * 2)
            self.assertLessEqual(sum(math.exp(p) for p in top.values()), 1 + 1e-6)
        self.assertEqual(self.server.complete(QUESTION, 5, logprobs=0)[2]["choices"][0]["logprobs"]["tokens"],
                         probs["tokens"])  # fmt: skip
        body = {"prompt": QUESTION, "max_tokens": 5, "temperature": 0, "logprobs": 3}
        stream = self.server.stream(body=body).read_all()
        parts = [e["choices"][0]["logprobs"] for e in stream.events if e["choices"][0]["logprobs"]]
        self.assertEqual([t for part in parts for t in part["tokens"]], probs["tokens"])
        self.assertEqual([o for part in parts for o in part["text_offset"]], probs["text_offset"])

    def test_echoed_log_probs_are_those_of_duo_logits(self):
        ids = self.server.post("/tokenize", {"content": QUESTION})["tokens"]
        out = self.dir / "logits.safetensors"
        self.ok("logits", "--model", "demo", "--pattern", "demo", "--sparsity", 0.5, *EXACT, "--positions", "all",
                "--ids", self.file("ids.json", json.dumps(ids)), "--out", out)  # fmt: skip
        _, shape, logits = read_safetensors(out)["logits"]
        self.assertEqual(shape, [len(ids), 1024])

        def log_prob(pos, token):
            row = logits[pos * 1024 : (pos + 1) * 1024]
            top = max(row)
            return row[token] - top - math.log(sum(math.exp(x - top) for x in row))

        def check():
            _, _, answer = self.server.complete(QUESTION, 0, echo=True, logprobs=1)
            self.assertEqual(answer["choices"][0]["text"], QUESTION)
            probs = answer["choices"][0]["logprobs"]
            self.assertEqual(len(probs["tokens"]), len(ids))
            self.assertIsNone(probs["token_logprobs"][0])
            for pos in range(1, len(ids)):
                self.assertAlmostEqual(probs["token_logprobs"][pos], log_prob(pos - 1, ids[pos]), delta=1e-4)
                best = max(log_prob(pos - 1, token) for token in range(1024))
                self.assertAlmostEqual(list(probs["top_logprobs"][pos].values())[0], best, delta=1e-4)
            return answer

        check()
        self.server.complete(QUESTION, 4)  # an idle sequence with this prompt must not hide its log probabilities
        self.assertEqual(check()["usage"]["completion_tokens"], 0)

    def test_echoed_text_and_offsets(self):
        prompt = "The cow feeds the barn."
        for n in [0, 6]:
            _, _, answer = self.server.complete(prompt, n, echo=True, logprobs=0)
            text, probs = answer["choices"][0]["text"], answer["choices"][0]["logprobs"]
            self.assertEqual(text, prompt + (self.generate(prompt, n) if n else ""))
            self.assertEqual(len(probs["tokens"]), answer["usage"]["prompt_tokens"] + n)
            for token, offset in list(zip(probs["tokens"], probs["text_offset"]))[1:]:
                self.assertEqual(text[offset : offset + len(token)], token)

    def test_offsets_of_echoed_special_tokens(self):
        text = "The cow<|end_of_text|> feeds<|begin_of_text|><|end_of_text|>the barn."
        ids = self.server.post("/tokenize", {"content": text})["tokens"]
        for prompt, special_is_shown in [(text, True), (ids, False)]:
            _, _, answer = self.server.complete(prompt, 3, echo=True, logprobs=0, duo={"ignore_eos": True})
            echoed, probs = answer["choices"][0]["text"], answer["choices"][0]["logprobs"]
            self.assertTrue(echoed.startswith(text if special_is_shown else "The cow feedsthe barn."), echoed)
            self.assertEqual(len(probs["tokens"]), len(ids) + 3)
            at = 0
            for i, (token, offset) in enumerate(zip(probs["tokens"], probs["text_offset"])):
                self.assertEqual(offset, at, probs)
                shown = i > 0 and (special_is_shown or not token.startswith("<|"))
                if shown:
                    self.assertEqual(echoed[at : at + len(token)], token)
                    at += len(token)
            self.assertEqual(at, len(echoed))

    def test_no_tokens_take_no_time(self):
        for fields in [{}, {"echo": True}]:
            timings = self.server.complete(PROSE, 0, **fields)[2]["duo"]["timings"]
            self.assertEqual(timings["decode_tokens_per_s"], 0)
        self.assertEqual(self.server.complete(PROSE, 1)[2]["duo"]["timings"]["decode_tokens_per_s"], 0)

    def test_log_probs_are_the_models_whatever_the_sampling(self):
        plain = self.server.complete("The cow", 1, logprobs=3)[2]["choices"][0]["logprobs"]
        bias = {str(self.server.post("/tokenize", {"content": "4", "add_special": False})["tokens"][0]): 100}
        forced = self.server.complete("The cow", 1, logprobs=3, logit_bias=bias)[2]["choices"][0]["logprobs"]
        self.assertEqual(forced["tokens"], ["4"])
        self.assertEqual(forced["top_logprobs"], plain["top_logprobs"])
        self.assertNotIn("4", forced["top_logprobs"][0])
        self.assertLess(forced["token_logprobs"][0], min(plain["top_logprobs"][0].values()))

    def test_prompts_as_token_ids(self):
        ids = self.server.post("/tokenize", {"content": QUESTION})["tokens"]
        self.assertEqual(ids[0], BEGIN)
        self.assertEqual(self.server.complete(ids, 8)[0], self.generate(QUESTION, 8))
        without = ids[1:]
        self.assertEqual(self.server.complete(without, 8)[0], self.generate(without, 8))
        _, _, answer = self.server.complete(ids, 0, echo=True)
        self.assertEqual(answer["choices"][0]["text"], QUESTION)

    def test_batches_of_prompts(self):
        prompts = ["The cow", QUESTION, "The barn feeds", PROSE * 20]
        _, _, answer = self.server.complete(prompts, 8)
        self.assertEqual([c["index"] for c in answer["choices"]], [0, 1, 2, 3])
        self.assertEqual([c["text"] for c in answer["choices"]], [self.generate(p, 8) for p in prompts])
        self.assertEqual(answer["usage"]["completion_tokens"], 32)
        stream = self.server.stream(body={"prompt": prompts, "max_tokens": 8, "temperature": 0}).read_all()
        self.assertEqual([stream.text(i) for i in range(4)], [c["text"] for c in answer["choices"]])
        ends = [c["index"] for e in stream.events for c in e["choices"] if c["finish_reason"]]
        self.assertEqual(sorted(ends), [0, 1, 2, 3])
        ids = [self.server.post("/tokenize", {"content": p})["tokens"] for p in prompts]
        self.assertEqual(self.server.complete(ids, 8)[2]["choices"], answer["choices"])
        many = [("The cow " * i).strip() for i in range(1, 65)]
        texts = [c["text"] for c in self.server.complete(many, 2)[2]["choices"]]
        self.assertEqual(len(texts), 64)
        self.assertEqual([texts[0], texts[63]], [self.generate(many[0], 2), self.generate(many[63], 2)])

    def test_pattern_of_one_request(self):
        prompt = PROSE * 40 + QUESTION
        full = self.server.complete(prompt, 12, duo={"pattern": "none"})[2]
        split = self.server.complete(prompt, 12, duo={"sparsity": 0.75, "sink": 8, "recent": 32})[2]
        self.assertEqual((full["duo"]["sparsity"], split["duo"]["sparsity"]), (0, 0.75))
        self.assertEqual(full["choices"][0]["text"], self.generate(prompt, 12, pattern="none"))
        self.assertLess(split["duo"]["kv_bytes"], full["duo"]["kv_bytes"])
        expected = self.ok("generate", "--model", "demo", "--pattern", "demo", "--sparsity", 0.75, "--sink", 8,
                           "--recent", 32, *EXACT, "--max-tokens", 12, "--prompt-file", "-",
                           stdin=prompt).out  # fmt: skip
        self.assertEqual(split["choices"][0]["text"], expected)


class ChatTest(SharedServerTest):
    # With f32, a prefix is reused up to a snapshot.
    flags = [*EXACT, "--snapshot-every", 64, "--chat-template", "chatml", "--max-tokens", 5]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What feeds the cow?"}]

    def chat(self, messages, **fields):
        return self.server.post("/v1/chat/completions", {"messages": messages, "temperature": 0, **fields})

    def expected(self, messages, n):
        ids = self.server.post("/tokenize", {"messages": messages})["tokens"]
        return self.generate(ids, n, "--stop", "<|im_end|>")

    def test_answer(self):
        answer = self.chat(self.messages, max_completion_tokens=9)
        self.assertEqual(answer["object"], "chat.completion")
        self.assertRegex(answer["id"], r"^chatcmpl-\d+$")
        message = answer["choices"][0]["message"]
        self.assertEqual((message["role"], message["content"]), ("assistant", self.expected(self.messages, 9)))
        self.assertEqual(answer["usage"]["prompt_tokens"],
                         self.server.post("/tokenize", {"messages": self.messages})["count"])  # fmt: skip
        self.assertEqual(self.chat(self.messages, max_tokens=9)["choices"][0]["message"], message)
        self.assertEqual(self.chat(self.messages)["usage"]["completion_tokens"], 5, "--max-tokens")

    def test_template(self):
        ids = self.server.post("/tokenize", {"messages": self.messages})["tokens"]
        text = self.server.post("/detokenize", {"tokens": ids})["content"]
        self.assertTrue(text.endswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat feeds the cow?"
                                      "<|im_end|>\n<|im_start|>assistant\n"), text)  # fmt: skip

    def test_stream(self):
        stream = self.server.stream("/v1/chat/completions", {"messages": self.messages, "temperature": 0}).read_all()
        self.assertTrue(stream.done)
        self.assertEqual(stream.events[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        self.assertEqual(stream.text(), self.expected(self.messages, 5))
        self.assertEqual({e["object"] for e in stream.events}, {"chat.completion.chunk"})
        self.assertEqual(stream.events[-1]["choices"][0]["delta"], {})
        self.assertEqual(stream.events[-1]["choices"][0]["finish_reason"], "length")

    def test_roles_and_parts_mean_the_same(self):
        system = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
        user = [{"type": "text", "text": "What feeds the cow?"}]
        parts = [{"role": "developer", "content": system}, {"role": "user", "content": user}]
        self.assertEqual(self.server.post("/tokenize", {"messages": parts}),
                         self.server.post("/tokenize", {"messages": self.messages}))  # fmt: skip
        self.assertEqual(self.chat(parts)["choices"], self.chat(self.messages)["choices"])

    def test_roles_come_in_any_order(self):
        user, system, answer = ({"role": role, "content": role} for role in ["user", "system", "assistant"])
        for messages in [[user, user], [user, system, user], [answer, user], [system], [answer, answer, user]]:
            ids = self.server.post("/tokenize", {"messages": messages})["tokens"]
            text = self.server.post("/detokenize", {"tokens": ids})["content"]
            expected = "".join("<|im_start|>%s\n%s<|im_end|>\n" % (m["role"], m["content"]) for m in messages)
            self.assertTrue(text.endswith(expected + "<|im_start|>assistant\n"), text)
            self.assertEqual(self.chat(messages)["choices"][0]["message"]["content"], self.expected(messages, 5))

    def test_a_last_answer_is_continued(self):
        whole = self.chat(self.messages, max_tokens=9)
        text = whole["choices"][0]["message"]["content"]
        for n in [1, len(text) // 2, len(text)]:
            begun = [*self.messages, {"role": "assistant", "content": text[:n]}]
            ids = self.server.post("/tokenize", {"messages": begun})["tokens"]
            self.assertTrue(self.server.post("/detokenize", {"tokens": ids})["content"].endswith(
                "<|im_start|>assistant\n" + text[:n]))  # fmt: skip
            self.assertEqual(self.chat(begun)["choices"][0]["message"]["content"], self.expected(begun, 5))

    def test_an_answer_can_be_sent_back_as_it_came(self):
        message = self.chat(self.messages)["choices"][0]["message"]
        self.chat([*self.messages, {**message, "tool_calls": None, "function_call": None, "annotations": []},
                   {"role": "user", "content": "And the horse?", "name": None}])  # fmt: skip

    def test_log_probs(self):
        answer = self.chat(self.messages, logprobs=True, top_logprobs=3)
        content = answer["choices"][0]["logprobs"]["content"]
        self.assertEqual("".join(t["token"] for t in content), answer["choices"][0]["message"]["content"])
        for token in content:
            self.assertEqual(bytes(token["bytes"]).decode(), token["token"])
            self.assertEqual(len(token["top_logprobs"]), 3)
            self.assertEqual(token["logprob"], token["top_logprobs"][0]["logprob"])
            ordered = [t["logprob"] for t in token["top_logprobs"]]
            self.assertEqual(ordered, sorted(ordered, reverse=True))
        plain = self.chat(self.messages, logprobs=True)["choices"][0]["logprobs"]["content"]
        self.assertEqual([t["top_logprobs"] for t in plain], [[]] * 5)

    def test_conversation_is_not_read_again(self):
        messages = [self.messages[0], {"role": "user", "content": PROSE * 30 + "What feeds the cow?"}]
        first = self.chat(messages)
        messages += [{"role": "assistant", "content": first["choices"][0]["message"]["content"]},
                     {"role": "user", "content": "And the horse?"}]  # fmt: skip
        second = self.chat(messages)
        self.assertGreaterEqual(second["usage"]["prompt_tokens_details"]["cached_tokens"],
                                first["usage"]["prompt_tokens"] // 64 * 64)  # fmt: skip
        self.assertEqual(second["choices"][0]["message"]["content"], self.expected(messages, 5))

    def test_pinned_system_message(self):
        system = {"role": "system", "content": "The secret code of Anna is 48213. " * 4}
        messages = [system, {"role": "user", "content": PROSE * 30 + "What is the secret code of Anna?"}]

        def ids(user):
            return self.server.post("/tokenize", {"messages": [system, {"role": "user", "content": user}]})["tokens"]

        n_system = next(i for i, (a, b) in enumerate(zip(ids("a"), ids("1"))) if a != b)
        self.assertGreater(n_system, 16, "more than the sink")
        pinned = self.chat(messages, max_tokens=16, duo={"pin_system_prompt": True, "sparsity": 1})
        expected = self.generate_with(1, ids(messages[1]["content"]), 16, "--pinned-prefix", n_system)
        self.assertEqual(pinned["choices"][0]["message"]["content"], expected)
        plain = self.chat(messages, max_tokens=16, duo={"sparsity": 1})
        self.assertGreater(pinned["duo"]["kv_bytes"], plain["duo"]["kv_bytes"])

    def generate_with(self, sparsity, ids, n, *flags):
        path = self.file("ids.json", json.dumps(ids))
        return self.ok("generate", "--model", "demo", "--pattern", "demo", "--sparsity", sparsity, *EXACT, "--ids",
                       path, "--max-tokens", n, "--stop", "<|im_end|>", *flags).out  # fmt: skip


if __name__ == "__main__":
    main()
