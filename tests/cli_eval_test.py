"""Tests `duo eval`: results, runs that continue after a kill, certificates, bad input. Usage: cli_eval_test.py DUO"""

import json
import shutil
import signal
import time

from cli_harness import HANG_SECONDS, MODEL, CliTest, main, start

DUO = ["--model", "demo", "--pattern", "demo"]
SMALL_NIAH = ["eval", "niah", *DUO, "--lengths", "600,1200", "--needle-depths", "0.2,0.8", "--n-texts", 2]
CERTIFY = ["eval", "certify", *DUO, "--lengths", "800", "--needle-depths", "0.3,0.7", "--context", 512, "--windows", 2]
SMALL_CERTIFY = [*CERTIFY, "--sparsities", "0,0.5,1"]


class NiahTest(CliTest):
    def test_half_of_the_heads_find_what_none_of_them_do_not(self):
        half = self.ok(*SMALL_NIAH, "--sparsity", 0.5, "--json").json()
        self.assertEqual((half["lengths"], half["depths"], half["n_seeds"]), ([600, 1200], [0.2, 0.8], 2))
        self.assertGreaterEqual(half["modes"]["full"]["mean"], 0.9)
        self.assertGreaterEqual(half["modes"]["duo"]["mean"], 0.9)
        self.assertLess(half["modes"]["duo"]["kv_bytes"], half["modes"]["full"]["kv_bytes"])
        none = self.ok(*SMALL_NIAH, "--sparsity", 1, "--json").json()
        self.assertEqual(none["modes"]["full"], half["modes"]["full"])
        self.assertLess(none["modes"]["duo"]["mean"], 0.3)

    def test_own_needles_and_texts(self):
        text = self.file("text.txt", "The farmer sows the field. The river runs to the sea. " * 60)
        own = ["--needle", "The secret code of Anna is 48213.", "--question",
               "What is the secret code of Anna?\nAnswer: ", "--keywords", "48213"]  # fmt: skip
        run = self.ok("eval", "niah", "--model", "demo", "--lengths", 700, "--needle-depths", 0.5, "--text", text, *own)
        self.assertIn("full attention, mean 1.000", run.out)
        self.assertNotIn("duo", run.out)  # no pattern was given

    def test_bad_input(self):
        niah = ["eval", "niah", *DUO, "--sparsity", 0.5]
        self.fails(2, "--lengths", *niah, "--lengths", "1k,x")
        self.fails(2, ["--lengths", "twice"], *niah, "--lengths", "1k,1024")
        self.fails(2, "--needle-depths", *niah, "--needle-depths", "1.5")
        self.fails(2, "length of 70", *niah, "--lengths", 70)
        self.fails(2, "context", *niah, "--lengths", "40k")
        self.fails(2, "go together", *niah, "--needle", "x")
        self.fails(2, "classic", *niah, "--preset", "classic", "--needles", 2)
        self.fails(1, ["--text", "no such file"], *niah, "--text", self.dir / "none")
        self.fails(2, "no text in it", *niah, "--text", self.file("blank.txt", " \n"))
        self.fails(1, "out", *niah, "--lengths", 600, "--out", self.file("out", "a file"))


class GoingOnTest(CliTest):
    def test_a_killed_run_gives_the_table_of_an_unbroken_one(self):
        niah = [*SMALL_NIAH, "--sparsity", 0.5]
        for kind, name, command in [(signal.SIGKILL, "niah", niah), (signal.SIGINT, "niah", niah),
                                    (signal.SIGKILL, "certify", SMALL_CERTIFY)]:  # fmt: skip
            whole, broken = self.dir / f"whole_{name}_{kind}", self.dir / f"broken_{name}_{kind}"
            self.ok(*command, "--out", whole)
            if shutil.which("gnuplot"):
                self.assertIn("</svg>", (whole / f"{name}.svg").read_text())
            process = start(*command, "--out", broken)
            log = broken / f"{name}.jsonl"
            end = time.monotonic() + HANG_SECONDS
            while time.monotonic() < end and process.poll() is None:
                if log.exists() and log.read_bytes().count(b"\n") >= 4:
                    break
                time.sleep(0.001)
            process.send_signal(kind)
            process.communicate(timeout=HANG_SECONDS)
            self.assertIn("of an earlier run are reused", self.ok(*command, "--out", broken).err)
            first = json.loads((whole / f"{name}.json").read_text())
            second = json.loads((broken / f"{name}.json").read_text())
            for result in [first, second]:
                result.pop("command")
                result.pop("full_decode_ms", None)
                for row in result.get("rows", []):
                    row.pop("decode_ms")
            self.assertEqual(first, second)

    def test_other_options_do_not_mix(self):
        out = self.dir / "out"
        self.ok(*SMALL_NIAH, "--sparsity", 0.5, "--out", out)
        before = (out / "niah.jsonl").read_bytes()
        self.fails(2, "heads", *SMALL_NIAH, "--sparsity", 0.25, "--out", out)
        self.fails(2, "seed 0, not 3", *SMALL_NIAH, "--sparsity", 0.5, "--seed", 3, "--out", out)
        self.fails(2, "pinned_prefix 0, not 100", *SMALL_NIAH, "--sparsity", 0.5, "--pinned-prefix", 100, "--out", out)
        without = [arg for arg in SMALL_NIAH if arg not in ("--pattern",)]
        without.remove("demo")
        self.fails(2, "gates_fingerprint", *without, "--out", out)
        self.assertEqual((out / "niah.jsonl").read_bytes(), before)

    def test_a_certificate_is_for_one_pattern(self):
        out = self.dir / "out"
        self.ok(*SMALL_CERTIFY, "--out", out)
        self.ok("pattern", "choose", "demo", "--sparsity", 0.5, "--out", self.dir / "other")
        other = [self.dir / "other" if i == SMALL_CERTIFY.index("--pattern") + 1 else arg
                 for i, arg in enumerate(SMALL_CERTIFY)]  # fmt: skip
        self.fails(2, "gates_fingerprint", *other, "--out", out)


class PerplexityTest(CliTest):
    perplexity = ["eval", "perplexity", *DUO, "--windows", 2]
    small = [*perplexity, "--context", 512]

    def test_no_streaming_heads_no_divergence(self):
        result = self.ok(*self.small, "--sparsity", 0, "--compute", "f32", "--json").json()
        self.assertEqual(result["duo"]["kld"], 0)
        self.assertEqual(result["duo"]["top1"], 1)
        self.assertEqual(result["duo"]["nll"], result["full"]["nll"])
        self.assertEqual(result["n_scored"], 511 + 256)

    def test_full_logits_are_computed_once(self):
        logits = self.dir / "full.safetensors"
        args = [*self.small, "--sparsity", 0.5, "--full-logits", logits, "--json"]
        first = self.ok(*args).json()
        written = logits.stat().st_mtime_ns
        self.assertEqual(self.ok(*args).json(), first)
        self.assertEqual(logits.stat().st_mtime_ns, written)
        self.assertEqual(self.ok(*self.small, "--sparsity", 0.5, "--json").json()["duo"], first["duo"])
        self.fails(2, ["--full-logits", "context 512, not 300"], *self.perplexity, "--sparsity", 0.5, "--full-logits",
                   logits, "--context", 300)  # fmt: skip

    def test_against_the_logits_of_another_configuration(self):
        logits = self.dir / "full.safetensors"
        alone = [*self.perplexity[:4], "--context", 512, "--windows", 1, "--json"]  # no pattern
        self.ok(*alone, "--full-logits", logits)
        same = self.ok(*alone, "--against", logits).json()
        self.assertEqual((same["duo"]["kld"], same["duo"]["top1"]), (0, 1))
        divergence = {}
        for name, flags in {"int8": ["--kv-type", "int8"], "int4": ["--kv-type", "int4"],
                            "weights": ["--weights", "int4"]}.items():  # fmt: skip
            result = self.ok(*alone, "--against", logits, *flags).json()
            self.assertEqual(result["full"], same["full"])
            divergence[name] = result["duo"]["kld"]
            self.assertGreater(divergence[name], 0)
        self.assertLess(divergence["int8"], divergence["int4"])
        self.fails(1, ["--against", "does not exist"], *alone, "--against", self.dir / "none")
        self.fails(2, ["--against", "context 512, not 300"], *self.perplexity[:4], "--windows", 1, "--against", logits,
                   "--context", 300)  # fmt: skip
        self.fails(2, ["--against"], *alone, "--against", logits, "--full-logits", logits)

    def test_without_a_pattern_it_is_perplexity_alone(self):
        run = self.ok("eval", "perplexity", "--model", "demo", "--context", 512, "--windows", 1)
        self.assertIn("perplexity", run.out)
        self.assertNotIn("KL", run.out)

    def test_bad_input(self):
        short = self.file("short.txt", "Too short.")
        self.fails(2, ["--text", "needs 511"], *self.small, "--sparsity", 0.5, "--text", short)
        self.fails(2, "stride", *self.small, "--sparsity", 0.5, "--stride", 512)
        self.fails(1, "side by side", *self.small, "--sparsity", 0.5, "--memory", "4MiB")


class CertifyTest(CliTest):
    def test_chooses_and_the_certificate_speaks(self):
        out = self.dir / "out"
        result = self.ok(*SMALL_CERTIFY, "--min-niah", 0.9, "--out", out, "--json").json()
        self.assertEqual([row["sparsity"] for row in result["rows"]], [0, 0.5, 1])
        self.assertEqual(result["rows"][0]["niah"], result["full_niah"])
        self.assertEqual(result["chosen"]["sparsity"], 0.5)
        self.assertEqual(result["heads"]["n_retrieval"], 8)
        again = self.ok(*SMALL_CERTIFY, "--min-niah", 0.9, "--json").json()
        self.assertEqual(again["chosen"]["sparsity"], 0.5)
        for a, b in zip(again["rows"], result["rows"]):
            self.assertEqual((a["kld"], a["niah"], a["kv_bytes"]), (b["kld"], b["niah"], b["kv_bytes"]))
        generate = ["generate", "--pattern", out / "pattern", "--prompt", "The cow", "--max-tokens", 2]
        run = self.ok(*generate, "--model", "demo")
        self.assertIn("measured at sparsity 0.5", run.err)
        self.assertNotIn("neither --sparsity", run.err)
        full = self.ok(*generate, "--model", "demo", "--threshold", 0)
        self.assertIn("certified with 8 retrieval heads, this run has 16", full.err)
        self.assertIn("certified with sink 16, recent 64",
                      self.ok(*generate, "--model", "demo", "--recent", 32).err)  # fmt: skip
        self.assertIn("another model", self.ok(*generate, "--model", self.model_copy("other")).err)
        (out / "pattern" / "certificate.json").write_text("{}")
        self.fails(1, "certificate.json: model", *generate, "--model", "demo")

    def model_copy(self, name):
        """The embedded model with another epsilon, and so with other results."""
        folder = self.dir / name
        folder.mkdir()
        for path in MODEL.iterdir():
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        config["rms_norm_eps"] = 2e-5
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def test_bounds_that_nothing_keeps(self):
        out = self.dir / "out"
        run = self.ok(*CERTIFY, "--sparsities", "1", "--min-niah", 0.9, "--out", out)
        self.assertIn("no sparsity of the list keeps the bounds", run.err)
        self.assertFalse((out / "pattern").exists())

    def test_bad_input(self):
        self.fails(2, ["--pattern", "gates"], "eval", "certify", "--model", "demo")
        self.fails(2, "context", *CERTIFY, "--depth", 40000)
        # Room for one session but not for several. A session's workspace depends on the machine's instruction set.
        plan = self.ok("plan", "--model", "demo", "--pattern", "demo", "--json").json()
        memory = plan["weights_bytes"] + int(1.5 * plan["activation_bytes"])
        self.fails(1, "side by side", *CERTIFY, "--memory", memory)
        self.fails(2, "--sparsities", *SMALL_CERTIFY, "--sparsity", 0.5)
        self.fails(2, "--sparsities", *CERTIFY, "--sparsities", "0,2")


class RulerTest(CliTest):
    def test_made_here(self):
        tasks = ["niah_single_1", "niah_multikey_1", "vt"]
        args = ["eval", "ruler", *DUO, "--sparsity", 0.5, "--length", 1500, "--samples", 2, "--tasks", ",".join(tasks)]
        result = self.ok(*args, "--out", self.dir / "out", "--json").json()
        self.assertEqual(set(result["tasks"]), set(tasks))
        for task in result["tasks"].values():
            self.assertEqual(task["n"], 2)
            self.assertTrue(0 <= task["full"] <= 100)
        self.assertEqual(len((self.dir / "out" / "ruler.jsonl").read_text().splitlines()), 1 + 3 * 2 * 2)

    def test_from_files(self):
        sample = {"index": 0, "outputs": ["48213"], "length": 60,
                  "input": "The secret code of Anna is 48213. " * 3 + "What is the secret code of Anna?\nAnswer: "}  # fmt: skip
        (self.dir / "niah_x").mkdir()
        self.file("niah_x/validation.jsonl", json.dumps(sample) + "\n" + json.dumps(sample) + "\n")
        ruler = ["eval", "ruler", "--model", "demo", "--data", self.dir]
        result = self.ok(*ruler, "--limit", 1, "--json").json()
        self.assertEqual(result["tasks"]["niah_x"], {"n": 1, "full": 100})
        self.fails(2, ["--tasks", "none of them"], *ruler, "--tasks", "vt")

    def test_bad_input(self):
        ruler = ["eval", "ruler", "--model", "demo"]
        self.fails(2, "poem", *ruler, "--tasks", "poem")
        self.fails(2, "cwe", *ruler, "--tasks", "cwe", "--length", 400)
        self.fails(1, "validation.jsonl", *ruler, "--data", self.dir)
        self.file("validation.jsonl", '{"input": 1}\n')
        self.fails(1, ["line 1", "input"], *ruler, "--data", self.dir)


class LongBenchTest(CliTest):
    def sample(self, context, question, answers):
        return json.dumps({"context": context, "input": question, "answers": answers, "all_classes": None}) + "\n"

    def test_questions_on_one_text(self):
        text = "The secret code of Anna is 48213. " * 100
        # The task's prompt ends with "Answer:", as the embedded model's own question does. Only its beginning differs.
        question = "What is the secret code of Anna?"
        self.file("multifieldqa_en.jsonl", self.sample(text, question, ["48213"]) * 2)
        self.file("dureader.jsonl", self.sample(text, question, ["48213"]))
        longbench = ["eval", "longbench", *DUO, "--sparsity", 0.5, "--data", self.dir]
        run = self.ok(*longbench, "--out", self.dir / "out")
        self.assertIn("by character", run.out)
        result = json.loads((self.dir / "out" / "longbench.json").read_text())
        self.assertEqual(result["tasks"]["multifieldqa_en"]["n"], 2)
        for task in result["tasks"].values():
            self.assertTrue(0 <= task["full"] <= 100)
        answers = [json.loads(line) for line in (self.dir / "out" / "longbench.jsonl").read_text().splitlines()[1:]]
        self.assertEqual(len(answers), 2 * 3)
        self.assertEqual(answers[0]["answer"], answers[1]["answer"])
        self.assertGreater(answers[1]["n_reused"], 0)  # the second question's text was in memory
        limited = self.ok(*longbench, "--tasks", "multifieldqa_en", "--limit", 1, "--max-length", 300, "--json").json()
        self.assertEqual(limited["tasks"]["multifieldqa_en"]["n"], 1)
        self.assertEqual(limited["max_length"], 300)

    def test_bad_input(self):
        longbench = ["eval", "longbench", "--model", "demo"]
        self.fails(2, "--data", *longbench)
        self.fails(1, ["--data", "no <task>.jsonl"], *longbench, "--data", self.dir)
        self.fails(2, ["--tasks", "poem"], *longbench, "--data", self.dir, "--tasks", "poem")
        self.file("qasper.jsonl", "{}\n")
        self.fails(1, ["qasper.jsonl: line 1", "context"], *longbench, "--data", self.dir)
        self.file("qasper.jsonl", self.sample("c", "q", ["a"]))
        self.fails(2, "--max-length", *longbench, "--data", self.dir, "--max-length", 100)
        self.fails(2, "--text", *longbench, "--data", self.dir, "--text", "builtin")


class ReportTest(CliTest):
    def test_one_page_of_everything(self):
        self.ok(*SMALL_NIAH, "--sparsity", 0.5, "--out", self.dir / "needles")
        self.ok(*PerplexityTest.small, "--sparsity", 0.5, "--out", self.dir / "text")
        bench = self.ok("bench", *DUO, "--sparsity", 0.5, "--depths", 64, "--decode", 2, "--prefill", 0, "--json").out
        page = self.dir / "page.html"
        run = self.ok("report", self.dir / "needles", self.dir / "text", self.file("bench.json", bench), "--out", page)
        self.assertIn("3 results", run.out)
        html = page.read_text()
        for part in ["Needle in a haystack", "Perplexity", "Speed", "duo eval niah --model demo"]:
            self.assertIn(part, html)
        if shutil.which("gnuplot"):
            self.assertEqual(html.count("<svg"), 2)
        self.assertNotIn("<script", html)
        for outside in ["src=", "@import", "url("]:
            self.assertNotIn(outside, html)

    def test_bad_input(self):
        out = ["--out", self.dir / "page.html"]
        self.fails(1, "No such file", "report", self.dir / "none.json", *out)
        self.fails(1, "no result", "report", self.dir, *out)
        self.fails(2, "is not a result", "report", self.file("x.json", "{}"), *out)
        self.fails(1, "x.json", "report", self.file("x.json", "{"), *out)
        self.fails(2, "RESULT", "report", *out)
        self.assertFalse((self.dir / "page.html").exists())


if __name__ == "__main__":
    main()
