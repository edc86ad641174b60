"""Tests the `duo` program: verbs, exit codes, JSON, Ctrl-C. Usage: cli_test.py PATH/TO/duo"""

import json
import math
import shutil
import signal
import unittest

from cli_harness import (FACTS, HANG_SECONDS, LLAMA2_TEMPLATE, MODEL, QUESTION, CliTest, duo, main, read_safetensors,
                         start, wait_for_handler)  # fmt: skip


class GenerateTest(CliTest):
    def test_answers_and_streams_what_json_says(self):
        args = ["generate", "--model", "demo", "--prompt", QUESTION, "--max-tokens", 12]
        text = self.ok(*args).out
        self.assertIn("48213", text)
        run = self.ok(*args, "--json")
        result = run.json()
        self.assertEqual(result["text"], text)
        self.assertEqual(run.out.count("\n"), 1)
        self.assertEqual(len(result["tokens"]), 12)
        self.assertEqual(result["finish"], "length")
        self.assertEqual(result["timings"]["decode_tokens"], 12)
        for key in ["prefill_ms", "decode_ms", "first_token_ms", "prefill_tokens", "decode_tokens_per_s"]:
            self.assertGreater(result["timings"][key], 0, key)
        for key in ["kv_bytes", "weights_bytes", "peak_rss_bytes"]:
            self.assertGreater(result["memory"][key], 0, key)

    def test_prompt_file_stdin_and_ids_agree(self):
        common = ["generate", "--model", "demo", "--max-tokens", 8, "--json"]
        expected = self.ok(*common, "--prompt", QUESTION).json()
        path = self.file("prompt.txt", QUESTION)
        self.assertEqual(self.ok(*common, "--prompt-file", path).json()["tokens"], expected["tokens"])
        self.assertEqual(self.ok(*common, "--prompt-file", "-", stdin=QUESTION).json()["tokens"], expected["tokens"])

    def test_stop_ends_the_text_before_it(self):
        common = ["generate", "--model", "demo", "--prompt", QUESTION, "--max-tokens", 12]
        whole = self.ok(*common).out
        for stop in ["\n", "13", "821"]:
            self.assertIn(stop, whole)
            result = self.ok(*common, "--stop", "never there", "--stop", stop, "--json").json()
            self.assertEqual(result["text"], whole[: whole.index(stop)])
            self.assertEqual(result["finish"], "stop")
            self.assertEqual(self.ok(*common, "--stop", stop).out, result["text"])

    def test_stop_takes_brackets_and_dashes_as_they_are(self):
        common = ["generate", "--model", "demo", "--prompt", QUESTION, "--max-tokens", 6]
        whole = self.ok(*common).out
        self.assertEqual(self.ok(*common, "--stop", "[a,b]", "--stop", "--json").out, whole)

    def test_seed_decides(self):
        def sample(seed):
            return self.ok("generate", "--model", "demo", "--prompt", FACTS, "--max-tokens", 24, "--temperature", 1.5,
                           "--seed", seed, "--json").json()["tokens"]  # fmt: skip

        first = sample(1)
        self.assertEqual(sample(1), first)
        self.assertNotEqual(sample(2), first)

    def test_top_k_one_is_greedy(self):
        common = ["generate", "--model", "demo", "--prompt", QUESTION, "--max-tokens", 12]
        greedy = self.ok(*common).out
        self.assertEqual(self.ok(*common, "--temperature", 2, "--top-k", 1).out, greedy)
        self.assertEqual(self.ok(*common, "--temperature", 2, "--min-p", 1).out, greedy)
        self.assertEqual(self.ok(*common, "--temperature", 2, "--top-p", 1e-9).out, greedy)

    def test_no_tokens_asked_for(self):
        result = self.ok("generate", "--model", "demo", "--prompt", "The", "--max-tokens", 0, "--json").json()
        self.assertEqual((result["tokens"], result["text"], result["finish"]), ([], "", "length"))

    def test_split_cache_answers_and_takes_less_memory(self):
        prose = "The muddy horse feeds the golden field. The farmer grows the cow. " * 150
        prompt = self.file("prompt.txt", FACTS + prose + "\nWhat is the secret code of Anna?\nAnswer: ")
        common = ["generate", "--model", "demo", "--prompt-file", prompt, "--max-tokens", 8, "--json"]
        full = self.ok(*common).json()
        split = self.ok(*common, "--pattern", "demo", "--sparsity", 0.5).json()
        self.assertEqual(full["heads"]["n_streaming"], 0)
        self.assertEqual(split["heads"]["n_retrieval"], 8)
        self.assertLess(split["memory"]["kv_bytes"], 0.6 * full["memory"]["kv_bytes"])
        self.assertIn("48213", full["text"])
        self.assertIn("48213", split["text"])

    def test_quantised_caches_answer_and_take_less_memory(self):
        prose = "The muddy horse feeds the golden field. The farmer grows the cow. " * 150
        prompt = self.file("prompt.txt", FACTS + prose + "\nWhat is the secret code of Anna?\nAnswer: ")
        common = ["generate", "--model", "demo", "--prompt-file", prompt, "--max-tokens", 8, "--json"]
        common += ["--pattern", "demo", "--sparsity", 0.5]
        plain = self.ok(*common).json()["memory"]["kv_bytes"]
        for kv_type, bytes_per_row in [("int8", 32 + 4), ("int4", 16 + 4)]:  # 64 with bf16: heads of 32 dimensions
            for chunk in [512, 1]:
                run = self.ok(*common, "--kv-type", kv_type, "--chunk", chunk).json()
                self.assertIn("48213", run["text"], kv_type)
                self.assertAlmostEqual(run["memory"]["kv_bytes"] / plain, bytes_per_row / 64, delta=0.01)

    def test_all_heads_retrieval_is_full_attention(self):
        common = ["generate", "--model", "demo", "--prompt", QUESTION, "--max-tokens", 12, "--json"]
        full = self.ok(*common).json()["tokens"]
        self.assertEqual(self.ok(*common, "--pattern", "none").json()["tokens"], full)
        self.assertEqual(self.ok(*common, "--pattern", "demo", "--sparsity", 0).json()["tokens"], full)
        self.assertEqual(self.ok(*common, "--pattern", "demo", "--threshold", 0).json()["tokens"], full)

    def test_pattern_alone_means_half_and_says_so(self):
        run = self.ok("generate", "--model", "demo", "--pattern", "demo", "--prompt", "The", "--max-tokens", 1, "--json")
        self.assertIn("0.5", run.err)
        self.assertEqual(run.json()["heads"]["sparsity"], 0.5)

    def test_window_comes_from_the_pattern_unless_given(self):
        common = ["generate", "--model", "demo", "--pattern", "demo", "--sparsity", 0.5, "--prompt", "The"]
        heads = self.ok(*common, "--json", "--max-tokens", 1).json()["heads"]
        self.assertEqual((heads["sink"], heads["recent"], heads["prefill_recent"]), (16, 64, 64))
        given = ["--sink", 3, "--recent", 9, "--prefill-recent", 21, "--pinned-prefix", 5]
        heads = self.ok(*common, *given, "--json", "--max-tokens", 1).json()["heads"]
        self.assertEqual((heads["sink"], heads["recent"], heads["prefill_recent"]), (5, 9, 21))

    def test_chunk_threads_and_compute_do_not_change_the_answer(self):
        common = ["generate", "--model", "demo", "--pattern", "demo", "--sparsity", 0.5, "--prompt", QUESTION]
        common += ["--max-tokens", 8, "--compute", "f32"]
        expected = self.ok(*common).out
        for extra in [["--chunk", 1], ["--chunk", 7, "--threads", 2], ["--threads", 1], ["--snapshot-every", 16]]:
            self.assertEqual(self.ok(*common, *extra).out, expected, extra)

    def test_progress_goes_to_stderr(self):
        run = self.ok("generate", "--model", "demo", "--prompt", QUESTION, "--max-tokens", 2, "--json", "--progress")
        run.json()
        self.assertIn("prefill", run.err)
        self.assertIn("tokens/s", run.err)


class InterruptTest(CliTest):
    def test_during_decode_the_text_so_far_stands(self):
        process = start("generate", "--model", "demo", "--prompt", FACTS, "--max-tokens", 30000, "--ignore-eos")
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG_SECONDS)
        self.assertEqual(process.returncode, 0, err)
        self.assertGreater(len(first + out), 0)
        self.assertIn(b"cancelled", err)

    def test_during_decode_json_is_whole(self):
        ids = self.ids(20)
        process = start("generate", "--model", "demo", "--ids", ids, "--max-tokens", 30000, "--ignore-eos", "--json",
                        "--progress")  # fmt: skip
        self.assertIn(b"prefill", process.stderr.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG_SECONDS)
        # When the signal arrives just before the last prompt token's callback, it stops the prompt instead.
        if process.returncode == 0:
            self.assertEqual(json.loads(out)["finish"], "cancelled")
        else:
            self.assertEqual(process.returncode, 1)
            self.assertIn(b"stopped", err)

    def test_during_prefill_is_a_failure_that_says_so(self):
        process = start("generate", "--model", "demo", "--ids", self.ids(32000), "--chunk", 16)
        self.assertTrue(wait_for_handler(process, True))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=HANG_SECONDS)
        self.assertEqual(process.returncode, 1, err)
        self.assertEqual(out, b"")
        self.assertIn(b"duo: error: stopped", err)

    def test_while_reading_standard_input(self):
        process = start("generate", "--model", "demo", "--prompt-file", "-")
        self.assertTrue(wait_for_handler(process, True))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HANG_SECONDS)
        self.assertEqual(process.returncode, 1, err)
        self.assertIn(b"stopped", err)

    def test_second_one_kills(self):
        ids = self.ids(32000)
        for _ in range(20):  # the first signal may end the program before the second is sent
            process = start("generate", "--model", "demo", "--ids", ids, "--chunk", 32000, "--threads", 1)
            self.assertTrue(wait_for_handler(process, True))
            process.send_signal(signal.SIGINT)
            if wait_for_handler(process, False):
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=HANG_SECONDS)
            if process.returncode == -signal.SIGINT:
                return
        self.fail("the second signal never killed the process")


class LogitsTest(CliTest):
    def logits(self, ids, positions, *extra):
        out = self.dir / "logits.safetensors"
        args = ["logits", "--model", "demo", "--ids", ids, "--out", out, "--compute", "f32"]
        self.ok(*args, *(["--positions", positions] if positions else []), *extra)
        tensors = read_safetensors(out)
        dtype, (n, vocab), values = tensors["logits"]
        self.assertEqual((dtype, vocab), ("F32", 1024))
        dtype, shape, positions = tensors["positions"]
        self.assertEqual((dtype, shape), ("I64", [n]))
        return {pos: values[i * vocab : (i + 1) * vocab] for i, pos in enumerate(positions)}

    def assert_close(self, a, b):
        self.assertEqual(a.keys(), b.keys())
        for pos in a:
            worst = max(abs(x - y) for x, y in zip(a[pos], b[pos]))
            self.assertLess(worst, 2e-3, "position %d" % pos)

    def test_positions(self):
        ids = self.ids(40)
        every = self.logits(ids, "all")
        self.assertEqual(list(every), list(range(40)))
        self.assertTrue(all(math.isfinite(x) for row in every.values() for x in row))
        self.assert_close(self.logits(ids, "10:12"), {pos: every[pos] for pos in [10, 11, 12]})
        self.assert_close(self.logits(ids, "39:39"), {39: every[39]})
        self.assert_close(self.logits(ids, "last"), {39: every[39]})
        self.assert_close(self.logits(ids, None), {39: every[39]})

    def test_chunk_does_not_change_them(self):
        ids = self.ids(150)
        window = ["--pattern", "demo", "--sparsity", 0.5, "--sink", 4, "--recent", 8]
        expected = self.logits(ids, "all", *window)
        for chunk in [1, 7, 64]:
            self.assert_close(self.logits(ids, "all", *window, "--chunk", chunk), expected)
        full = self.logits(ids, "last")
        self.assertGreater(max(abs(a - b) for a, b in zip(full[149], expected[149])), 1e-2)

    def test_argmax_is_what_generate_says(self):
        ids = self.ids(60)
        row = self.logits(ids, "last")[59]
        result = self.ok("generate", "--model", "demo", "--ids", ids, "--max-tokens", 1, "--ignore-eos", "--compute",
                         "f32", "--json").json()  # fmt: skip
        self.assertEqual(result["tokens"], [row.index(max(row))])

    def test_json(self):
        out = self.dir / "x.safetensors"
        result = self.ok("logits", "--model", "demo", "--ids", self.ids(9), "--out", out, "--json").json()
        self.assertEqual((result["n_positions"], result["vocab_size"], result["out"]), (1, 1024, str(out)))

    def test_bad_positions(self):
        common = ["logits", "--model", "demo", "--ids", self.ids(9), "--out", self.dir / "x.safetensors"]
        for positions in ["first", "3", "5:4", "0:9", "-1:3", "1:2:3", ":", "99999999999999999999:1"]:
            self.fails(2, "--positions", *common, "--positions=" + positions)

    def test_unwritable_outputs(self):
        common = ["logits", "--model", "demo", "--ids", self.ids(9), "--out"]
        self.fails(1, ["--out", "missing"], *common, self.dir / "missing" / "x.safetensors")
        self.fails(1, "--out", *common, self.dir)
        self.fails(1, "--out", *common, "/dev/full")


class PatternTest(CliTest):
    def test_show(self):
        text = self.ok("pattern", "show", "demo", "--sparsity", 0.5).out
        self.assertIn("4 layers x 4 KV heads, sink 16, recent 64", text)
        self.assertIn("8 of 16", text)
        self.assertNotIn("\x1b", text)
        shown = self.ok("pattern", "show", MODEL / "pattern", "--threshold", 0.5, "--json").json()
        gates = shown["gates"]
        self.assertEqual((len(gates), len(gates[0])), (4, 4))
        self.assertEqual(shown["retrieval"], [[int(gate >= 0.5) for gate in row] for row in gates])

    def test_choose_keeps_the_config_and_the_choice(self):
        source = self.dir / "source"
        source.mkdir()
        (source / "full_attention_heads.tsv").write_text("0.1\t0.9\n0.5\t0.4\n")
        (source / "config.json").write_text('{"sink_size": 5, "recent_size": 7, "mine": [1, 2]}')
        out = self.dir / "chosen"
        self.ok("pattern", "choose", source, "--threshold", 0.45, "--out", out)
        config = json.loads((out / "config.json").read_text())
        self.assertEqual((config["sink_size"], config["recent_size"], config["mine"]), (5, 7, [1, 2]))
        shown = self.ok("pattern", "show", out, "--json").json()
        self.assertEqual(shown["gates"], [[0, 1], [1, 0]])
        again = self.ok("pattern", "show", source, "--sparsity", 0.5, "--json").json()
        self.assertEqual(again["retrieval"], [[0, 1], [1, 0]])

    def test_diff(self):
        out = self.dir / "chosen"
        self.ok("pattern", "choose", "demo", "--sparsity", 0.5, "--out", out)
        same = self.ok("pattern", "diff", "demo", out, "--json").json()
        self.assertEqual((same["n_only_a"], same["n_only_b"], same["differing"]), (0, 0, []))
        self.assertIn("8 retrieval heads in both", self.ok("pattern", "diff", "demo", out).out)

    @unittest.skipIf(shutil.which("gnuplot") is None, "gnuplot is not installed")
    def test_plot(self):
        svg, png = self.dir / "a.svg", self.dir / "a.png"
        self.ok("pattern", "plot", "demo", "--sparsity", 0.5, "--out", svg, "--title", "heads")
        self.assertIn("<svg", svg.read_text())
        self.ok("pattern", "plot", "demo", "--out", png)
        self.assertEqual(png.read_bytes()[:4], b"\x89PNG")

    def test_bad_input(self):
        self.fails(1, "nowhere", "pattern", "show", self.dir / "nowhere")
        self.fails(2, "--sparsity", "pattern", "choose", "demo", "--out", self.dir / "x")
        self.fails(2, "--out", "pattern", "choose", "demo", "--sparsity", 0.5)
        self.fails(2, ["--sparsity", "--threshold"], "pattern", "show", "demo", "--sparsity", 1, "--threshold", 1)
        self.fails(1, "--out", "pattern", "choose", "demo", "--sparsity", 0.5, "--out", "/dev/null/x")
        self.fails(2, "--out", "pattern", "plot", "demo", "--out", self.dir / "x.gif")
        for name, rows in [("nan", "0\tnan\n"), ("ragged", "0\t1\n0\n"), ("words", "0\tx\n")]:
            bad = self.dir / name
            bad.mkdir()
            (bad / "full_attention_heads.tsv").write_text(rows)
            (bad / "config.json").write_text('{"sink_size": 5, "recent_size": 7}')
            self.fails(1, "full_attention_heads.tsv", "pattern", "show", bad)
        self.assertEqual(duo("pattern").code, 2)


class ChatTest(CliTest):
    def chat(self, lines, *extra):
        model = self.dir / "chat_model"
        if not model.exists():
            self.model_with_template(LLAMA2_TEMPLATE)
        common = ["chat", "--model", model, "--max-tokens", 6, "--temperature", 0]
        return self.ok(*common, *extra, stdin="\n".join(lines) + "\n")

    def test_answers_are_what_json_says(self):
        lines = ["The secret code of Anna is 48213.", "What is the secret code of Anna?"]
        result = self.chat(lines, "--json").json()
        roles = [message["role"] for message in result["messages"]]
        self.assertEqual(roles, ["user", "assistant"] * 2)
        self.assertEqual([m["content"] for m in result["messages"][::2]], lines)
        answers = [message["content"] for message in result["messages"][1::2]]
        self.assertEqual(self.chat(lines).out, "".join(answer + "\n" for answer in answers))
        self.assertGreater(result["turns"][1]["reused_tokens"], 10)

    def test_undo_is_as_if_it_had_not_been_asked(self):
        plain = self.chat(["The cow feeds.", "The horse grows."], "--json").json()
        for extra in [[], ["--pattern", str(MODEL / "pattern"), "--sparsity", "0"]]:
            undone = self.chat(["The cow feeds.", "The fox hides.", "/undo", "The horse grows."], "--json", *extra).json()
            self.assertEqual(undone["messages"], plain["messages"])
            self.assertGreater(undone["turns"][1]["reused_tokens"], 0)

    def test_reset_keeps_the_system_prompt(self):
        system = ["--system", "The secret code of Boris is 70956.", "--pattern", "demo", "--sparsity", "0.5"]
        fresh = self.chat(["The horse grows."], "--json", *system).json()
        reset = self.chat(["The cow feeds.", "/reset", "The horse grows."], "--json", *system).json()
        self.assertEqual(reset["messages"], fresh["messages"])
        self.assertEqual(reset["messages"][0]["role"], "system")
        self.assertGreater(reset["turns"][0]["reused_tokens"], 10)
        self.assertGreater(fresh["heads"]["sink"], 16)  # the system prompt is pinned
        unpinned = self.chat(["The horse grows."], "--json", "--pinned-prefix", "0", *system).json()
        self.assertEqual(unpinned["heads"]["sink"], 16)

    def test_lines_with_a_backslash_go_on(self):
        result = self.chat(["one \\", "two\\", "three"], "--json").json()
        self.assertEqual(result["messages"][0]["content"], "one \ntwo\nthree")

    def test_quit_help_and_empty_lines(self):
        run = self.chat(["", "/help", "/quit", "never read"])
        self.assertEqual(run.out, "")
        self.assertIn("/undo", run.err)

    def test_save(self):
        text, data = self.dir / "chat.txt", self.dir / "chat.json"
        result = self.chat(["The cow feeds.", "/save %s" % text, "/save %s" % data], "--json").json()
        self.assertEqual(json.loads(data.read_text()), result["messages"])
        self.assertEqual(data.read_text(), json.dumps(result["messages"], indent=2, ensure_ascii=False) + "\n")
        self.assertIn("## user\n\nThe cow feeds.\n", text.read_text())

    def test_bad_commands(self):
        model = self.model_with_template(LLAMA2_TEMPLATE)
        for line, needle in [("/frobnicate", "/frobnicate"), ("/undo", "/undo"), ("/save", "/save"),
                             ("/save %s/missing/x" % self.dir, "/save")]:  # fmt: skip
            run = duo("chat", "--model", model, stdin=line + "\n")
            self.assertNotEqual(run.code, 0)
            self.assertIn(needle, run.err)

    def test_json_has_the_turns_before_an_error(self):
        model = self.model_with_template(LLAMA2_TEMPLATE)
        args = ["chat", "--model", model, "--json", "--max-tokens", 4]
        run = duo(*args, stdin="The cow feeds.\n/frobnicate\nThe horse grows.\n")
        self.assertEqual(run.code, 2)
        self.assertIn("/frobnicate", run.err)
        self.assertEqual([m["role"] for m in run.json()["messages"]], ["user", "assistant"])

    def test_endless_lines_are_an_error(self):
        model = self.model_with_template(LLAMA2_TEMPLATE)
        self.fails(2, "line of more than", "chat", "--model", model, stdin=b"a" * ((64 << 20) + 1))

    def test_without_a_template(self):
        self.fails(1, "template", "chat", "--model", "demo", stdin="hello\n")

    def test_a_question_beyond_the_context(self):
        model = self.model_with_template(LLAMA2_TEMPLATE)
        self.fails(1, "max-context", "chat", "--model", model, "--max-context", 32, stdin=QUESTION.replace("\n", " "))


if __name__ == "__main__":
    main()
