"""Tests `duo identify`: results, stopping and resuming, bad input. Usage: cli_identify_test.py PATH/TO/duo"""

import json
import pathlib
import signal
import time

import cli_harness
from cli_harness import HANG_SECONDS, MODEL, SOURCE, CliTest, main, start

GOLDEN = SOURCE / "tests" / "data" / "golden"
SMALL = ["identify", "--model", "demo", "--min-length", 100, "--max-length", 200, "--passkeys", 2, "--sink", 8,
         "--recent", 32, "--threads", 1]  # fmt: skip
SCORES = ["identify", "--model", "demo", "--max-length", 200, "--threads", 1]
OF_METHOD = {"repeat": ["--sink", 8], "profile": ["--n-texts", 2], "mass": ["--n-texts", 2, "--sink", 8, "--recent", 32]}


class ProbeTest(CliTest):
    def test_agrees_with_the_oracle(self):
        cases = sorted(GOLDEN.iterdir())
        self.assertTrue(cases)
        for case in cases:
            golden = json.loads((case / "golden.json").read_text())
            expected = golden["identify"]
            ids = self.file("ids.json", json.dumps(golden["prompt_ids"]))
            run = self.ok("identify", "probe", "--model", case, "--ids", ids, "--labels",
                          "%d:%d" % tuple(expected["label_positions"]), "--pattern", case / "pattern", "--reg",
                          expected["reg_weight"], "--compute", "f32", "--json")  # fmt: skip
            result = run.json()
            self.assertEqual(set(result), {"distill_loss", "reg_loss", "gate_grad"})
            self.assertAlmostEqual(result["distill_loss"] / expected["distill_loss"], 1, delta=1e-4)
            self.assertAlmostEqual(result["reg_loss"] / expected["reg_loss"], 1, delta=1e-4)
            largest = max(abs(g) for row in expected["alpha_grad"] for g in row)
            for got, want in zip(sum(result["gate_grad"], []), sum(expected["alpha_grad"], [])):
                self.assertAlmostEqual(got, want, delta=1e-3 * largest)

    def test_bad_input(self):
        ids = self.ids(20)
        common = ["identify", "probe", "--model", "demo", "--ids", ids]
        self.fails(2, "--pattern", *common, "--labels", "3:5")
        self.fails(2, "--labels", *common, "--labels", "3:20", "--pattern", "demo")
        self.fails(2, "--labels", *common, "--labels", "x", "--pattern", "demo")
        self.fails(2, "--sparsity", *common, "--labels", "3:5", "--pattern", "demo", "--sparsity", 0.5)


class OptimizeTest(CliTest):
    def gates(self, out):
        return (pathlib.Path(out) / "full_attention_heads.tsv").read_bytes()

    def test_writes_a_pattern_and_says_so_in_json(self):
        out = self.dir / "out"
        result = self.ok(*SMALL, "--steps", 6, "--out", out, "--json").json()
        self.assertEqual(result["method"], "optimize")
        shown = self.ok("pattern", "show", out, "--json").json()
        self.assertEqual(shown["gates"], result["gates"])
        self.assertEqual((shown["sink"], shown["recent"]), (8, 32))
        self.assertEqual(sorted(path.name for path in out.iterdir()),
                         ["config.json", "full_attention_heads.tsv", "log.jsonl"])  # fmt: skip
        self.assertEqual(len((out / "log.jsonl").read_text().splitlines()), 6)

    def test_memory_is_what_was_announced(self):
        program = pathlib.Path(cli_harness.DUO).read_bytes()
        if b"__asan_init" in program or b"__tsan_init" in program:
            self.skipTest("SKIPPED: the plan does not count a sanitizer's own memory")
        out = self.dir / "out"
        args = ["--min-length", 16000, "--max-length", 16000, "--sink", 16, "--recent", 64, "--steps", 1]
        memory = self.ok("identify", "--model", "demo", *args, "--out", out, "--json").json()["memory"]
        base = 48 << 20  # the program, its libraries, the tokenizer and the text
        self.assertLess(memory["peak_rss_bytes"], memory["planned_bytes"] + base)
        self.assertGreater(memory["peak_rss_bytes"], 0.7 * memory["planned_bytes"])

    def test_interrupted_and_killed_runs_are_resumed_bit_for_bit(self):
        whole = self.dir / "whole"
        steps = ["--steps", 60, "--save-every", 4]
        stopped = 0
        self.ok(*SMALL, *steps, "--out", whole)
        for kind in [signal.SIGINT, signal.SIGKILL]:
            out = self.dir / ("stopped_%d" % kind)
            process = start(*SMALL, *steps, "--out", out)
            end = time.monotonic() + HANG_SECONDS
            while time.monotonic() < end and process.poll() is None:
                log = out / "log.jsonl"
                if log.exists() and log.read_text().count("\n") >= 7:
                    break
                time.sleep(0.001)
            process.send_signal(kind)
            _, err = process.communicate(timeout=HANG_SECONDS)
            if process.returncode == 0:
                continue  # it had finished before the signal
            stopped += 1
            if kind == signal.SIGINT:
                self.assertEqual(process.returncode, 1)
                self.assertIn(b"--resume continues", err)
                self.ok("pattern", "show", out)
            self.fails(2, "unfinished run", *SMALL, *steps, "--out", out)
            self.fails(2, "num_steps", *SMALL, "--steps", 61, "--save-every", 4, "--out", out, "--resume")
            self.ok(*SMALL, *steps, "--out", out, "--resume")
            self.assertEqual(self.gates(out), self.gates(whole))
            self.assertEqual(len((out / "log.jsonl").read_text().splitlines()), 60)
        self.assertGreater(stopped, 0)

    def stop(self, *args):
        """Runs until some steps are done, then sends Ctrl-C."""
        out = pathlib.Path(args[args.index("--out") + 1])
        process = start(*args)
        end = time.monotonic() + HANG_SECONDS
        while time.monotonic() < end and process.poll() is None and not (out / "log.jsonl").exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HANG_SECONDS)
        self.assertEqual(process.returncode, 1)

    def test_a_run_is_not_resumed_with_another_text(self):
        text = self.file("long.txt", "The quick brown fox jumps over the lazy dog, and so on. " * 200)
        args = [*SMALL, "--text", text, "--words", 3, "--steps", 100000, "--out", self.dir / "out"]
        self.stop(*args)
        self.file("long.txt", "The quick brown cat jumps over the lazy dog, and so on. " * 200)
        self.fails(2, "dataset_fingerprint", *args, "--resume")

    def test_a_run_that_did_not_get_far_leaves_the_older_pattern(self):
        out = self.dir / "out"
        self.ok(*SMALL, "--steps", 3, "--out", out)
        gates, log = self.gates(out), (out / "log.jsonl").read_bytes()
        # A step over the whole text is slow, so Ctrl-C arrives before the first is done.
        slow = ["identify", "--model", "demo", "--min-length", 30000, "--max-length", 30000, "--threads", 1]
        process = start(*slow, "--out", out)
        end = time.monotonic() + HANG_SECONDS
        while time.monotonic() < end and process.poll() is None and not (out / "state.json").exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HANG_SECONDS)
        self.assertEqual(process.returncode, 1)
        self.assertEqual((self.gates(out), (out / "log.jsonl").read_bytes()), (gates, log))

    def test_windows_to_deploy(self):
        out = self.dir / "out"
        for method in [["optimize", "--steps", 1], ["mass"]]:
            self.ok("identify", "--model", "demo", "--max-length", 500, "--sink", 8, "--recent", 32, "--deploy-sink", 5,
                    "--deploy-recent", 70, "--method", *method, "--out", out)  # fmt: skip
            shown = self.ok("pattern", "show", out, "--json").json()
            self.assertEqual((shown["sink"], shown["recent"]), (5, 70))
        self.fails(2, "--recent", *SMALL, "--recent", 1 << 31, "--out", self.dir / "new")
        self.assertFalse((self.dir / "new").exists())

    def test_scores_replace_a_learned_pattern_with_its_log(self):
        out = self.dir / "out"
        self.ok(*SMALL, "--steps", 2, "--out", out)
        self.ok(*SCORES, "--method", "profile", "--n-texts", 2, "--out", out)
        self.assertFalse((out / "log.jsonl").exists())

    def test_any_text_will_do(self):
        text = self.file("long.txt", "The quick brown fox jumps over the lazy dog, and so on. " * 200)
        self.ok(*SMALL, "--text", text, "--words", 3, "--steps", 2, "--out", self.dir / "out")
        config = json.loads((self.dir / "out" / "config.json").read_text())
        self.assertEqual(config["dataset"], str(text))
        self.assertEqual(config["passkey_length"], 3)
        lines = self.file("long.jsonl", json.dumps({"text": "Rain falls on the plain. " * 400}) + "\n")
        self.ok(*SMALL, "--text", lines, "--words", 3, "--steps", 2, "--out", self.dir / "other")

    def test_bad_input(self):
        out = ["--out", self.dir / "out"]
        self.fails(2, "--out", *SMALL)
        for flag, largest in [("--deploy-sink", 1 << 20), ("--deploy-recent", 1 << 20), ("--n-texts", 100000)]:
            self.fails(2, flag, *SMALL, *out, flag, largest + 1)
        short = self.file("short.txt", "Too short.")
        self.fails(2, ["text", "at least as many"], *SMALL, "--text", short, *out)
        self.fails(1, ["--text", "no such file"], *SMALL, "--text", self.dir / "missing", *out)
        self.fails(2, "no unfinished run", *SMALL, *out, "--resume")
        self.fails(2, "--pattern", *SMALL, "--pattern", "demo", *out)
        self.fails(2, ["--max-length", "passkeys"], *SMALL[:3], "--max-length", 40000, *out)
        self.fails(2, "34160 tokens", *SMALL[:3], "--method", "repeat", "--max-length", 32000, "--repeat-chunk", 2096,
                   *out)  # fmt: skip
        self.fails(2, "passkeys: 20", *SMALL[:3], "--passkeys", 20, "--min-length", 100, "--max-length", 100, *out)
        self.fails(2, "--target-sparsity", *SMALL, "--target-sparsity", 1, *out)
        self.fails(2, "--method", *SMALL, "--method", "magic", *out)
        blocked = self.file("blocked", "a file")
        self.fails(1, "blocked", *SMALL, "--steps", 1, "--out", blocked)

    def test_what_does_not_fit_is_refused_before_it_begins(self):
        for method in [["optimize", "--steps", 1], ["repeat"], ["profile"], ["mass"]]:
            out = self.dir / method[0]
            self.fails(1, ["need", "are available"], "identify", "--model", "demo", "--max-length", 2000, "--memory",
                       "3MiB", "--method", *method, "--out", out)  # fmt: skip
            self.assertFalse((out / "config.json").exists())
        self.fails(1, ["--memory", "weights alone"], *SMALL, "--memory", "1MiB", "--out", self.dir / "out")

    def test_flags_without_a_meaning_are_named(self):
        out = ["--out", self.dir / "out"]
        for flag in ["--sparsity", "--kv-type", "--chunk", "--n-texts", "--words", "--n-depths"]:
            value = {"--kv-type": "f32", "--sparsity": "0.5"}.get(flag, 64)
            self.fails(2, flag, *SMALL, *out, flag, value)
        profile = ["identify", "--model", "demo", "--method", "profile", *out]
        for flag in ["--steps", "--reg", "--min-length", "--sink", "--repeat-chunk"]:
            self.fails(2, flag, *profile, flag, 1)
        self.fails(2, "--resume", *profile, "--resume")
        text = self.file("long.txt", "The quick brown fox jumps over the lazy dog, and so on. " * 200)
        for flag in ["--passkeys", "--words", "--n-depths", "--depth-begin"]:
            self.fails(2, flag, *profile, "--text", text, flag, 1)
        self.fails(2, "goes after probe", "identify", "--compute", "f32", "probe", "--model", "demo", "--pattern", "demo",
                   "--ids", self.ids(9), "--labels", "3:5")  # fmt: skip
        self.fails(2, "--min-length", "identify", "--model", "demo", "--min-length", 300, "--max-length", 200, *out)

    def test_scores_leave_an_unfinished_run_alone(self):
        out = self.dir / "out"
        out.mkdir()
        (out / "state.json").write_text("{}")
        self.fails(2, "unfinished run", "identify", "--model", "demo", "--method", "profile", "--out", out)


class ScoresTest(CliTest):
    def test_every_method_gives_a_pattern_of_shares(self):
        for method in ["repeat", "profile", "mass"]:
            out = self.dir / method
            result = self.ok(*SCORES, *OF_METHOD[method], "--method", method, "--out", out, "--json").json()
            self.assertEqual(result["method"], method)
            shown = self.ok("pattern", "show", out, "--json").json()
            self.assertEqual(shown["gates"], result["gates"])
            self.assertTrue(all(0 <= gate <= 1 for row in shown["gates"] for gate in row))
            self.assertGreater(max(max(row) for row in shown["gates"]), min(min(row) for row in shown["gates"]))
            self.assertEqual(json.loads((out / "config.json").read_text())["method"], method)

    def test_chunks_hardly_matter(self):
        for method in ["repeat", "profile", "mass"]:
            results = []
            for chunk in [17, 512]:
                run = self.ok(*SCORES, *OF_METHOD[method], "--method", method, "--compute", "f32", "--chunk", chunk,
                              "--out", self.dir / ("%s%d" % (method, chunk)), "--json")  # fmt: skip
                results.append(sum(run.json()["gates"], []))
            for a, b in zip(*results):
                self.assertAlmostEqual(a, b, delta=1e-4)


class ExclusiveLayersTest(CliTest):
    def test_layers_are_of_one_kind(self):
        out = self.dir / "chosen"
        result = self.ok("pattern", "choose", "demo", "--sparsity", 0.5, "--exclusive-layers", "--out", out, "--json")
        rows = result.json()["retrieval"]
        self.assertTrue(all(len(set(row)) == 1 for row in rows))
        self.assertEqual(sum(row[0] for row in rows), 2)
        question = "The secret code of Anna is 48213. The cow grows.\n\nWhat is the secret code of Anna?\nAnswer: "
        self.ok("generate", "--model", MODEL, "--pattern", out, "--threshold", 0.5, "--prompt", question,
                "--max-tokens", 4)  # fmt: skip
        self.fails(2, "--exclusive-layers", "pattern", "choose", "demo", "--threshold", 0.5, "--exclusive-layers", "--out",
                   out)  # fmt: skip


if __name__ == "__main__":
    main()
