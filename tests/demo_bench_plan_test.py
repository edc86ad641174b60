"""Tests the verbs demo, plan and bench. Usage: demo_bench_plan_test.py DUO"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

DUO = ""
REPO = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LLAMA_3_8B = os.path.join(REPO, "bench", "configs", "llama-3-8b.json")

TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 32, "hidden_act": "silu", "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False,
}

ROW_KEYS = {
    "test", "mode", "depth", "tokens", "weights", "kv_type", "sparsity", "ms_per_token", "tokens_per_s",
    "attention_ms", "attention_gb_s", "gemm_gflop_s", "kv_bytes", "bytes_per_token", "read_gb_s",
    "floor_ms", "fill",
}
PLAN_KEYS = {"weights_bytes", "kv_bytes_per_token", "kv_fixed_bytes", "kv_page_bytes", "activation_bytes",
             "max_context_tokens"}


def duo(*args):
    return subprocess.run([DUO, *args], capture_output=True, text=True, check=False)


class Case(unittest.TestCase):
    def result(self, *args):
        """The JSON on stdout. Fails when there is anything else."""
        done = duo(*args)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def refused(self, code, *args):
        """The sentence on stderr. Nothing is on stdout."""
        done = duo(*args)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertEqual(done.stdout, "")
        return done.stderr


class Demo(Case):
    def test_json_has_all_modes_and_full_attention_finds_the_facts(self):
        demo = self.result("demo", "--tokens", "2000", "--facts", "3", "--seed", "1", "--json")
        self.assertLessEqual(demo["text_tokens"], 2000)
        self.assertGreater(demo["text_tokens"], 1960)
        self.assertEqual(len(demo["questions"]), 3)
        self.assertEqual(set(demo["modes"]), {"full", "duo", "random"})
        for name, mode in demo["modes"].items():
            hits = sum(q["answers"][name]["hit"] for q in demo["questions"])
            self.assertEqual(mode["hits"], hits)
            for key in ("time_to_first_token_s", "prefill_tokens_per_s", "decode_tokens_per_s"):
                self.assertGreater(mode[key], 0)
        for question in demo["questions"]:
            for answer in question["answers"].values():
                self.assertEqual(answer["hit"], answer["text"].strip(" .") == question["expected"])
        self.assertGreaterEqual(demo["modes"]["full"]["hits"], 2)
        self.assertGreaterEqual(demo["modes"]["duo"]["hits"], 2)

    def test_kv_memory_is_half_at_half_sparsity(self):
        demo = self.result("demo", "--tokens", "4000", "--facts", "2", "--json")
        modes, n = demo["modes"], demo["text_tokens"]
        # 4 layers x 4 KV heads x K and V x 32 x bf16.
        self.assertEqual(modes["full"]["kv_bytes"], n * 4 * 4 * 2 * 32 * 2)
        self.assertEqual(demo["heads"]["n_streaming"], 8)
        self.assertLess(modes["duo"]["kv_bytes"], 0.55 * modes["full"]["kv_bytes"])
        self.assertGreater(modes["duo"]["kv_bytes"], 0.5 * modes["full"]["kv_bytes"])
        self.assertEqual(modes["random"]["kv_bytes"], modes["duo"]["kv_bytes"])

    def test_the_table_is_for_people_and_fits_80_columns(self):
        done = duo("demo", "--tokens", "1500", "--facts", "2")
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("expected", "full", "duo", "random", "hits", "KV memory", "time to first token",
                     "prefill tokens/s", "decode tokens/s"):
            self.assertIn(word, done.stdout)
        self.assertRegex(done.stdout, "[✓✗]")
        self.assertNotIn("\x1b", done.stdout)  # no colour without a terminal
        for line in done.stdout.splitlines():
            self.assertLessEqual(len(line), 80, line)

    def test_the_same_seed_gives_the_same_questions(self):
        run = [self.result("demo", "--tokens", "600", "--facts", "2", "--seed", s, "--json") for s in ("5", "5", "6")]
        asked = [[(q["question"], q["expected"]) for q in r["questions"]] for r in run]
        self.assertEqual(asked[0], asked[1])
        self.assertNotEqual(asked[0], asked[2])

    def test_text_of_the_user(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("The ship sails. The secret code of Anna is 48213. The gulls drift their harbor. " * 3)
            file.flush()
            demo = self.result("demo", "--text-file", file.name, "--ask", "What is the secret code of Anna?",
                               "--ask", "What is the secret code of Anna?\nAnswer:", "--json")
            self.assertEqual(len(demo["questions"]), 2)
            self.assertIsNone(demo["questions"][0]["expected"])
            self.assertNotIn("hits", demo["modes"]["full"])
            self.assertEqual(demo["questions"][0]["question"], "What is the secret code of Anna?\nAnswer: ")
            self.assertEqual(demo["questions"][1]["question"], "What is the secret code of Anna?\nAnswer:")
            self.assertIn("--tokens", self.refused(2, "demo", "--text-file", file.name, "--ask", "x", "--tokens", "900"))
            self.assertIn("--ask", self.refused(2, "demo", "--text-file", file.name))

    def test_bad_flags(self):
        self.assertIn("--text-file", self.refused(2, "demo", "--ask", "Why?"))
        self.assertIn("--facts", self.refused(2, "demo", "--facts", "71"))
        self.assertIn("--tokens", self.refused(2, "demo", "--tokens", "many"))
        self.assertIn("8 facts and a little text", self.refused(2, "demo", "--tokens", "100"))
        self.assertIn("--pattern", self.refused(2, "demo", "--pattern", "none"))
        self.assertIn("/no/such/file", self.refused(1, "demo", "--text-file", "/no/such/file", "--ask", "Why?"))


class Plan(Case):
    def test_keys_and_arithmetic(self):
        plan = self.result("plan", "--config", LLAMA_3_8B, "--sparsity", "0.5", "--memory", "24GiB", "--sink", "64",
                           "--recent", "256", "--json")
        self.assertEqual(set(plan), PLAN_KEYS | {"full"})
        self.assertEqual(set(plan["full"]), PLAN_KEYS)
        full = plan["full"]
        self.assertEqual(full["weights_bytes"], 2 * 8030261248)  # the published number of parameters
        self.assertEqual(full["kv_bytes_per_token"], 32 * 8 * 2 * 128 * 2)
        self.assertEqual(full["kv_fixed_bytes"], 0)
        self.assertEqual(plan["kv_page_bytes"], 0)  # 0 on the CPU: only devices have pages
        self.assertEqual(plan["kv_bytes_per_token"], full["kv_bytes_per_token"] // 2)
        self.assertEqual(plan["kv_fixed_bytes"], 128 * 2 * (64 + 256) * 128 * 2)
        for p in (plan, full):
            fixed = p["weights_bytes"] + p["activation_bytes"] + p["kv_fixed_bytes"]
            self.assertEqual(p["max_context_tokens"], (24 * 2**30 - fixed) // p["kv_bytes_per_token"])
        self.assertGreater(plan["max_context_tokens"], 1.9 * full["max_context_tokens"])

    def test_kv_type_and_no_pattern(self):
        plan = self.result("plan", "--config", LLAMA_3_8B, "--kv-type", "f32", "--memory", "64GiB", "--json")
        self.assertEqual(plan["kv_bytes_per_token"], 32 * 8 * 2 * 128 * 4)
        self.assertEqual({k: v for k, v in plan.items() if k != "full"}, plan["full"])

    def test_the_embedded_model_with_its_pattern(self):
        plan = self.result("plan", "--model", "demo", "--pattern", "demo", "--sparsity", "0.5", "--json")
        self.assertEqual(plan["kv_bytes_per_token"], 8 * 2 * 32 * 2)
        self.assertEqual(plan["kv_fixed_bytes"], 8 * 2 * (16 + 64) * 32 * 2)

    def test_what_lies_beyond_the_context_takes_no_memory(self):
        demo = ["plan", "--model", "demo", "--pattern", "demo", "--sparsity", "0.5", "--json"]
        at_most = self.result(*demo, "--sink", "2768", "--recent", "30000", "--chunk", "32768")
        for flags in [["--sink", "2768", "--recent", "2000000000", "--chunk", "65536"],
                      ["--sink", "2000000", "--chunk", "65536"], ["--pinned-prefix", "2000000"]]:  # fmt: skip
            with self.subTest(flags=flags):
                plan = self.result(*demo, *flags)
                self.assertLessEqual(plan["kv_fixed_bytes"], at_most["kv_fixed_bytes"] + 4096)
                self.assertLessEqual(plan["activation_bytes"], at_most["activation_bytes"] + 4096)

    def test_memory_that_does_not_hold_the_weights_holds_no_context(self):
        plan = self.result("plan", "--config", LLAMA_3_8B, "--memory", "8GiB", "--json")
        self.assertEqual(plan["max_context_tokens"], 0)
        self.assertIn("Without any context", duo("plan", "--config", LLAMA_3_8B, "--memory", "8GiB").stdout)

    def test_table(self):
        done = duo("plan", "--config", LLAMA_3_8B, "--sparsity", "0.5", "--memory", "24GiB")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("128 of 256 KV heads stream, evenly spread", done.stdout)
        self.assertIn("largest context", done.stdout)

    def test_all_committed_shapes_load(self):
        folder = os.path.dirname(LLAMA_3_8B)
        parameters = {"llama-3-8b": 8030261248, "llama-3.2-1b": 1235814400, "llama-2-7b": 6738415616,
                      "mistral-7b-v0.3": 7248023552, "qwen2.5-7b": 7615616512}
        self.assertEqual({name[:-5] for name in os.listdir(folder)}, set(parameters))
        for name, n in parameters.items():
            plan = self.result("plan", "--config", os.path.join(folder, name + ".json"), "--memory", "64GiB", "--json")
            self.assertEqual(plan["weights_bytes"], 2 * n, name)

    def test_bad_flags(self):
        self.assertIn("--model", self.refused(2, "plan"))
        self.assertIn("--config", self.refused(2, "plan", "--config", LLAMA_3_8B, "--model", "demo"))
        self.assertIn("--threshold", self.refused(2, "plan", "--config", LLAMA_3_8B, "--threshold", "0.5"))
        self.assertIn("--memory", self.refused(2, "plan", "--config", LLAMA_3_8B, "--memory", "lots"))
        self.assertIn("--pattern", self.refused(2, "plan", "--config", LLAMA_3_8B, "--pattern", "demo"))
        self.assertIn("/no/such", self.refused(1, "plan", "--config", "/no/such/config.json"))


class Bench(Case):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.tiny = os.path.join(self.folder.name, "tiny.json")
        with open(self.tiny, "w", encoding="utf-8") as file:
            json.dump(TINY, file)

    def tearDown(self):
        self.folder.cleanup()

    def test_rows_and_kv_bytes_agree_with_plan(self):
        bench = self.result("bench", "--model", "demo", "--pattern", "demo", "--sparsity", "0.5", "--depths", "0,3000",
                            "--decode", "4", "--prefill", "64", "--repeat", "2", "--fill", "synthetic", "--json")
        self.assertLessEqual({"model", "threads", "ceilings", "peak_rss_bytes", "plan_bytes", "machine", "rows"},
                             set(bench))
        self.assertLessEqual({"read_gb_s", "gemm_bf16_gflop_s", "gemm_int8_gop_s"}, set(bench["ceilings"]))
        self.assertLessEqual({"cpu", "threads", "isa", "flags"}, set(bench["machine"]))
        self.assertGreater(bench["ceilings"]["read_gb_s"], 0)
        self.assertGreater(bench["peak_rss_bytes"], 0)
        self.assertEqual([(r["depth"], r["test"], r["mode"]) for r in bench["rows"]],
                         [(d, t, m) for d in (0, 3000) for t in ("decode", "prefill") for m in ("full", "duo")])
        plan = self.result("plan", "--model", "demo", "--pattern", "demo", "--sparsity", "0.5", "--json")
        for row in bench["rows"]:
            self.assertLessEqual(ROW_KEYS, set(row))
            self.assertEqual(row["fill"], "synthetic")
            self.assertEqual(row["sparsity"], 0.5 if row["mode"] == "duo" else 0)
            self.assertEqual(row["tokens"], 8 if row["test"] == "decode" else 64)
            self.assertGreater(row["ms_per_token"], 0)
            self.assertGreaterEqual(row["ms_per_token_p90"], row["ms_per_token"])
            self.assertAlmostEqual(row["tokens_per_s"] * row["ms_per_token"], 1000, delta=1e-6)
            self.assertGreater(row["read_gb_s"], 0)
            self.assertGreaterEqual(row["floor_ms"], row["bytes_per_token"] / row["read_gb_s"] / 1e6 * (1 - 1e-9))
            of = plan if row["mode"] == "duo" else plan["full"]
            planned = of["kv_fixed_bytes"] + row["depth"] * of["kv_bytes_per_token"]
            self.assertLessEqual(row["kv_bytes"], 1.05 * planned)
            if row["depth"] > 0:  # at depth 0 the session's context is shorter than the windows
                self.assertGreaterEqual(row["kv_bytes"], 0.95 * planned)
        by = {(r["depth"], r["test"], r["mode"]): r for r in bench["rows"]}
        # A decode step reads the matrices once, and the rows that the heads see.
        decode = by[(3000, "decode", "full")]
        matrices = 2 * (4 * (128 * (2 * 256 + 2 * 128) + 3 * 128 * 384) + 1024 * 128)
        self.assertAlmostEqual(decode["bytes_per_token"], matrices + 3005 * 16 * 2 * 32 * 2, delta=16 * 2 * 32 * 2)
        self.assertLess(by[(3000, "decode", "duo")]["bytes_per_token"], decode["bytes_per_token"])

    def test_random_weights_and_a_part_of_the_layers(self):
        args = ("bench", "--config", self.tiny, "--random-weights", "--layers", "1", "--depths", "200", "--decode", "3",
                "--prefill", "0", "--repeat", "1")
        bench = self.result(*args, "--sparsity", "0.25", "--json")
        self.assertEqual(bench["model"]["n_layers"], 1)
        self.assertEqual(bench["model"]["n_layers_of_model"], 4)
        self.assertEqual(bench["model"]["layers"], "1 of 4 layers run")
        self.assertTrue(bench["model"]["random_weights"])
        self.assertEqual([r["mode"] for r in bench["rows"]], ["full", "duo"])
        self.assertEqual(bench["rows"][0]["kv_bytes"], 200 * 4 * 2 * 32 * 2)
        self.assertEqual(bench["rows"][1]["sparsity"], 0.25)
        self.assertEqual({r["fill"] for r in bench["rows"]}, {"prefill"})
        table = duo(*args)
        self.assertIn("1 of 4 layers run", table.stdout)
        self.assertIn("| decode | duo ", table.stdout)

    def test_modes_and_types(self):
        args = ("bench", "--config", self.tiny, "--random-weights", "--weights", "int8", "--compute", "int8", "--depths",
                "64", "--decode", "2", "--prefill", "16", "--repeat", "1", "--modes", "full,duo:int8,duo:int4")
        bench = self.result(*args, "--json")
        rows = [r for r in bench["rows"] if r["test"] == "decode"]
        self.assertEqual([(r["mode"], r["kv_type"]) for r in rows],
                         [("full", "bf16"), ("duo", "int8"), ("duo", "int4")])
        self.assertEqual({r["weights"] for r in rows}, {"int8"})
        self.assertGreater(bench["ceilings"]["gemm_int8_gop_s"], 0)
        self.assertIn("duo int4", duo(*args).stdout)
        alone = self.result(*args[:-1], "duo", "--json")
        self.assertEqual({r["mode"] for r in alone["rows"]}, {"duo"})
        for bad in ["", "half", "duo:int2", "full,"]:
            self.assertIn("--modes", self.refused(2, *args[:-1], bad))

    def test_csv(self):
        done = duo("bench", "--config", self.tiny, "--random-weights", "--depths", "0, 8", "--decode", "0",
                   "--prefill", "8", "--repeat", "1", "--format", "csv")
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [line.split(",") for line in done.stdout.splitlines()]
        self.assertLessEqual(ROW_KEYS, set(lines[0]))
        self.assertEqual(len(lines), 5)
        self.assertEqual({len(line) for line in lines}, {len(lines[0])})

    @unittest.skipIf(shutil.which("gnuplot") is None, "SKIPPED: no gnuplot")
    def test_a_run_becomes_a_picture(self):
        out = os.path.join(self.folder.name, "bench.svg")

        def draw(run):
            return subprocess.run([sys.executable, os.path.join(REPO, "bench", "picture.py"), out], input=json.dumps(run),
                                  capture_output=True, text=True, check=False)  # fmt: skip

        run = self.result("bench", "--config", self.tiny, "--random-weights", "--depths", "0,1024", "--fill", "synthetic",
                          "--decode", "2", "--prefill", "0", "--repeat", "1", "--modes", "full:bf16,duo:int4", "--json")
        done = draw(run)
        self.assertEqual(done.returncode, 0, done.stderr)
        drawn = {e.text for e in xml.etree.ElementTree.parse(out).iter() if e.text}
        for text in ["milliseconds per token", "GiB of K and V", "full, bf16 K and V", "duo, int4 K and V", "1k"]:
            self.assertIn(text, drawn)
        done = draw({**run, "rows": [{**row, "test": "prefill"} for row in run["rows"]]})
        self.assertEqual((done.returncode, done.stderr), (1, "bench/picture.py: the run has no decode tests\n"))

    def test_the_table_says_how_the_cache_was_filled(self):
        bench = ["bench", "--config", self.tiny, "--random-weights", "--decode", "2", "--prefill", "0", "--repeat", "1"]
        for depth, fill, said in [("16", "synthetic", True), ("16", "prefill", False), ("0", "synthetic", False)]:
            done = duo(*bench, "--depths", depth, "--fill", fill)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual("The cache was filled with synthetic K and V." in done.stdout, said, (depth, fill))

    def test_what_does_not_fit_is_refused_with_numbers(self):
        error = self.refused(1, "bench", "--config", LLAMA_3_8B, "--random-weights", "--memory", "4GiB")
        for part in ("15.0 GiB", "4.00 GiB", "--layers"):
            self.assertIn(part, error)
        error = self.refused(1, "bench", "--config", self.tiny, "--random-weights", "--depths", "0,1000000", "--memory",
                             "1GiB")
        self.assertIn("1000000 tokens with full attention need", error)

    def test_bad_flags(self):
        tiny = ("--config", self.tiny)
        self.assertIn("--model", self.refused(2, "bench"))
        self.assertIn("--random-weights", self.refused(2, "bench", *tiny))
        self.assertIn("--layers", self.refused(2, "bench", "--model", "demo", "--layers", "1"))
        self.assertIn("--layers", self.refused(2, "bench", *tiny, "--random-weights", "--layers", "5"))
        self.assertIn("--depths", self.refused(2, "bench", "--model", "demo", "--depths", "0,deep"))
        self.assertIn("--depths", self.refused(2, "bench", "--model", "demo", "--depths", "0,,4"))
        self.assertIn("--fill", self.refused(2, "bench", "--model", "demo", "--fill", "water"))
        self.assertIn("--format", self.refused(2, "bench", "--model", "demo", "--format", "xml"))
        self.assertIn("--decode", self.refused(2, "bench", "--model", "demo", "--decode", "0", "--prefill", "0"))


if __name__ == "__main__":
    DUO = sys.argv.pop(1)
    unittest.main()
