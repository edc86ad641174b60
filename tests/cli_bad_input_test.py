"""`duo` answers bad input with one sentence and exit code 1 or 2. Usage: cli_bad_input_test.py PATH/TO/duo"""

import json
import os
import re
import shutil
import subprocess
import unittest

import cli_harness
from cli_harness import HANG_SECONDS, MODEL, SOURCE, CliTest, duo, main


class BadInputTest(CliTest):
    def test_flags(self):
        common = ["generate", "--model", "demo", "--prompt", "The"]
        for code, needle, args in [
            (2, "--frobnicate", ["--frobnicate"]),
            (2, "stray", ["stray"]),
            (2, "--max-tokens", ["--max-tokens", "many"]),
            (2, "--max-tokens", ["--max-tokens", "-1"]),
            (2, "--max-tokens", ["--max-tokens", "1.5"]),
            (2, "--max-tokens", ["--max-tokens", "99999999999999999999"]),
            (2, "--max-tokens", ["--max-tokens", ""]),
            (2, "--max-tokens", ["--max-tokens"]),
            (2, "--max-tokens", ["--max-tokens", "1", "--max-tokens", "2"]),
            (2, "--temperature", ["--temperature", "-0.1"]),
            (2, "--temperature", ["--temperature", "nan"]),
            (2, "--temperature", ["--temperature", "inf"]),
            (2, "--top-k", ["--top-k", "-1"]),
            (2, "--top-p", ["--top-p", "0"]),
            (2, "--top-p", ["--top-p", "1.01"]),
            (2, "--min-p", ["--min-p", "2"]),
            (2, "--repetition-penalty", ["--repetition-penalty", "0"]),
            (2, "--sparsity", ["--pattern", "demo", "--sparsity", "1.5"]),
            (2, "--sparsity", ["--sparsity", "0.5"]),
            (2, "--sparsity", ["--pattern", "none", "--sparsity", "0.5"]),
            (2, "--threshold", ["--threshold", "0.5"]),
            (2, "--threshold", ["--pattern", "demo", "--sparsity", "0.5", "--threshold", "0.5"]),
            (2, "--pattern", ["--pattern", ""]),
            (1, "--pattern", ["--pattern", "/nowhere"]),
            (2, "--sink", ["--sink", "-1"]),
            (2, "--recent", ["--recent", "0"]),
            (2, "--prefill-recent", ["--recent", "8", "--prefill-recent", "7"]),
            (2, "--prefill-recent", ["--pattern", "demo", "--sparsity", "0.5", "--prefill-recent", "63"]),
            (2, "--pinned-prefix", ["--pinned-prefix", "x"]),
            (2, "--chunk", ["--chunk", "0"]),
            (2, "--chunk", ["--chunk", "65537"]),
            (2, "--compute", ["--compute", "int8"]),
            (2, "--compute", ["--compute", "int8", "--weights", "int4"]),
            (2, "--compute", ["--compute", "f64"]),
            (2, "--kv-type", ["--kv-type", "int2"]),
            (2, "--kv-type", ["--kv-type", "half"]),
            (2, "--weights", ["--weights", "int2"]),
            (2, "--threads", ["--threads", "0"]),
            (2, "--threads", ["--threads", "1025"]),
            (2, "--device", ["--device", "tpu"]),
            (2, "--seed", ["--seed", "-1"]),
            (2, "--memory", ["--memory", "lots"]),
            (2, "--memory", ["--memory", "0"]),
            (2, "--memory", ["--memory", "-3GiB"]),
            (2, "--memory", ["--memory", "3 parsecs"]),
            (1, "--memory", ["--memory", "1MiB"]),
            (2, "--max-context", ["--max-context", "0"]),
            (2, "--prompt", ["--prompt-file", "x"]),
        ]:
            with self.subTest(args=args):
                self.fails(code, needle, *common, *args)

    def test_prompts(self):
        common = ["generate", "--model", "demo"]
        self.fails(2, "--prompt", *common)
        self.fails(1, ["--prompt-file", "nowhere"], *common, "--prompt-file", self.dir / "nowhere")
        self.fails(1, "--prompt-file", *common, "--prompt-file", self.dir)
        self.fails(2, "--prompt", *common, "--prompt", "", "--no-special")
        self.fails(2, "--model", "generate", "--prompt", "The")
        self.fails(1, "nowhere", "generate", "--prompt", "The", "--model", self.dir / "nowhere")
        self.fails(1, "config.json", "generate", "--prompt", "The", "--model", self.dir)

    def test_ids(self):
        for content, needles in [
            ("", "bad.json"),
            ("[1, 2", "bad.json"),
            ("{}", ["bad.json", "array", "object"]),
            ("[]", ["bad.json", "empty"]),
            ("[1, 1024]", ["bad.json", "index 1", "1024"]),
            ("[1, 2, -1]", ["bad.json", "index 2", "-1"]),
            ("[1.5]", ["bad.json", "index 0"]),
            ('[1, "2"]', ["bad.json", "index 1", "string"]),
            ("[99999999999999999999999]", ["bad.json", "index 0"]),
            ("[18446744073709551615]", ["bad.json", "index 0"]),
        ]:
            with self.subTest(content=content):
                path = self.file("bad.json", content)
                self.fails(1, needles, "generate", "--model", "demo", "--ids", path)
                out = self.dir / "x.safetensors"
                self.fails(1, needles, "logits", "--model", "demo", "--ids", path, "--out", out)
                self.assertFalse(out.exists())

    def test_prompts_beyond_context_and_memory(self):
        ids = self.ids(40000)
        self.fails(1, ["40000", "32768"], "generate", "--model", "demo", "--ids", ids)
        few = self.ids(200, "few.json")
        self.fails(1, ["200", "100"], "generate", "--model", "demo", "--ids", few, "--max-context", 100)
        long = self.ids(30000, "long.json")
        self.fails(1, ["need", "available"], "generate", "--model", "demo", "--ids", long, "--memory", "16MiB",
                   "--chunk", 64)  # fmt: skip
        self.fails(1, ["need", "available"], "generate", "--model", "demo", "--prompt", "The", "--memory", "2.2MiB")

    def test_the_librarys_options_become_flags(self):
        """The library names its own options. The program names the flags of the verb instead."""
        few, long = self.ids(200, "few.json"), self.ids(30000, "long.json")
        text = self.file("short.txt", "The cow jumped over the moon.")
        empty = self.dir / "empty"
        empty.mkdir()
        for code, expected, verb, args in [
            (1, r".* \(--sparsity, --kv-type\)", ["generate"], ["--ids", long, "--memory", "64MiB"]),
            (1, r".* \(--chunk, --sink, --recent\)", ["generate"], ["--prompt", "The", "--memory", "2.2MiB"]),
            (1, r".* \(--max-context\)", ["generate"], ["--ids", few, "--max-context", 100]),
            (2, "--tasks: .*", ["eval", "longbench"], ["--data", empty, "--tasks", "poem"]),
            (1, "--data: .*", ["eval", "longbench"], ["--data", self.dir / "is no LongBench task"]),
            (2, "--text: .*", ["eval", "perplexity"], ["--text", text, "--context", 1024]),
            (2, "--stride: .*", ["eval", "perplexity"], ["--context", 64, "--stride", 64]),
            (2, "--needles: .*", ["eval", "niah"], ["--preset", "classic", "--needles", 2]),
            (2, "--min-length: .*", ["identify"], ["--text", "builtin", "--min-length", 16, "--max-length", 64,
                                                   "--out", self.dir / "out"]),
            (1, "--against: .*--full-logits FILE.*", ["eval", "perplexity"], ["--against", empty / "none"]),
        ]:  # fmt: skip
            with self.subTest(verb=verb, args=args):
                sentence = self.fails(code, [], *verb, "--model", "demo", *args).err.strip().splitlines()[-1]
                self.assertRegex(sentence, f"^duo: error: {expected}$")
                flags = self.ok(*verb, "--help").out
                for flag in re.findall(r"--[a-z-]+", sentence):
                    self.assertRegex(flags, rf"{flag}\b", "a flag that the verb does not have")

    def test_without_cuda_the_cpu_is_named(self):
        run = duo("generate", "--model", "demo", "--prompt", "The", "--max-tokens", 1, "--device", "cuda")
        if run.code != 0:
            self.assertIn("(--device cpu)", run.err)

    def test_the_refusal_in_the_docs_is_real(self):
        page = (SOURCE / "docs" / "cli.md").read_text(encoding="utf-8")
        shown = re.search(r"^\$ duo (generate .*--memory .*)\n(duo: error: .*\n)", page, re.MULTILINE)
        args = [self.ids(30000, "long.json") if word == "long.json" else word for word in shown[1].split()]
        real = self.fails(1, [], *args).err
        self.assertEqual(*[re.sub(r"[0-9.]+", "N", text) for text in (shown[2], real)])

    def test_a_full_context_ends_the_text(self):
        result = self.ok("generate", "--model", "demo", "--ids", self.ids(50), "--max-context", 60, "--max-tokens", 100,
                         "--ignore-eos", "--json").json()  # fmt: skip
        self.assertEqual(result["finish"], "context")

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_unwritable_standard_output(self):
        for args in [["generate", "--model", "demo", "--prompt", "The", "--max-tokens", "4"],
                     ["generate", "--model", "demo", "--prompt", "The", "--max-tokens", "4", "--json"],
                     ["pattern", "show", "demo"], ["--help"], ["--version"]]:  # fmt: skip
            with self.subTest(args=args), open("/dev/full", "wb") as full:
                process = subprocess.run([cli_harness.DUO, *args], stdout=full, stderr=subprocess.PIPE, timeout=HANG_SECONDS)
                self.assertEqual(process.returncode, 1)
                self.assertIn(b"standard output", process.stderr)

    def test_unwritable_standard_error(self):
        with open("/dev/full", "w") as full:
            for code, args in ((2, ["plan", "--bad"]), (0, ["plan", "--model", MODEL]), (1, ["generate", "--model", "x", "--prompt", "y"])):
                run = subprocess.run([cli_harness.DUO, *args], stdout=subprocess.DEVNULL, stderr=full)
                self.assertEqual(run.returncode, code, args)

    def test_broken_models(self):
        def model(name, **changed):
            path = self.dir / name
            shutil.copytree(MODEL, path)
            for file, content in changed.items():
                file = path / file.replace("__", ".")
                file.chmod(0o644) if file.exists() else None
                file.unlink() if content is None else file.write_bytes(content)
            return path

        weights = (MODEL / "model.safetensors").read_bytes()
        config = json.loads((MODEL / "config.json").read_text())
        for path, needle in [
            (model("truncated", model__safetensors=weights[:-1000]), "model.safetensors"),
            (model("no_weights", model__safetensors=None), "safetensors"),
            (model("no_config", config__json=None), "config.json"),
            (model("bad_config", config__json=b"{"), "config.json"),
            (model("shapes", config__json=json.dumps(dict(config, hidden_size=256)).encode()), "128"),
            (model("bad_tokenizer", tokenizer__json=b"[]"), "tokenizer.json"),
            (model("no_tokenizer", tokenizer__json=None), "tokenizer"),
        ]:
            with self.subTest(model=path.name):
                self.fails(1, needle, "generate", "--model", path, "--prompt", "The", "--max-tokens", 1)
        without_tokenizer = ["generate", "--model", self.dir / "no_tokenizer", "--ids", self.ids(5), "--max-tokens", 2]
        self.assertEqual(len(self.ok(*without_tokenizer, "--ignore-eos", "--json").json()["tokens"]), 2)
        self.fails(1, "tokenizer", *without_tokenizer, "--stop", "x")

    def test_pattern_of_another_model(self):
        wrong = self.dir / "wrong"
        wrong.mkdir()
        (wrong / "full_attention_heads.tsv").write_text("1\t0\n" * 3)
        (wrong / "config.json").write_text('{"sink_size": 5, "recent_size": 7}')
        self.fails(2, ["--pattern", "3", "4"], "generate", "--model", "demo", "--prompt", "The", "--pattern", wrong)


if __name__ == "__main__":
    main()
