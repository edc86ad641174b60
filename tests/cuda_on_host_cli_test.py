"""Every verb that computes gives the same over the CUDA backend on the CPU (tests/cuda_on_host) and the CPU's backend.

usage: cuda_on_host_cli_test.py PATH/TO/duo_cuda_on_host
"""

from cli_harness import QUESTION, main, read_safetensors
from serve_harness import ServeTest, in_threads

EXACT = ["--compute", "f32"]
SPLIT = ["--model", "demo", "--pattern", "demo", "--sparsity", 0.5]
DEVICES = ("cuda", "cpu")


class VerbsTest(ServeTest):
    def both(self, *args):
        """The JSON output with each of the two devices."""
        return [self.ok(*args, "--device", device, "--json").json() for device in DEVICES]

    def test_generate(self):
        cuda, cpu = self.both("generate", *SPLIT, *EXACT, "--max-tokens", 8, "--prompt", QUESTION)
        self.assertEqual(cuda["text"], cpu["text"])
        self.assertTrue(cuda["text"].startswith("48213"), cuda["text"])
        for flags in (["--kv-type", "bf16"], ["--kv-type", "int4"], ["--weights", "int8", "--compute", "int8"],
                      ["--weights", "int4"]):  # fmt: skip
            answer = self.ok("generate", *SPLIT, "--device", "cuda", "--max-tokens", 5, "--prompt", QUESTION, *flags).out
            self.assertEqual(answer.strip(), "48213", flags)

    def test_logits(self):
        values = []
        for device in DEVICES:
            out = self.dir / (device + ".safetensors")
            self.ok("logits", *SPLIT, *EXACT, "--device", device, "--ids", self.ids(40), "--out", out)
            values.append(read_safetensors(out)["logits"][2])
        largest = max(abs(x) for x in values[1])
        self.assertLess(max(abs(a - b) for a, b in zip(*values, strict=True)), 1e-4 * largest)

    def test_perplexity(self):
        cuda, cpu = self.both("eval", "perplexity", *SPLIT, *EXACT, "--context", 96, "--windows", 1)
        self.assertAlmostEqual(cuda["full"]["nll"], cpu["full"]["nll"], 4)
        self.assertGreater(cpu["duo"]["kld"], 0)
        self.assertAlmostEqual(cuda["duo"]["kld"] / cpu["duo"]["kld"], 1, 2)

    def test_identify(self):
        for flags in (["--method", "repeat"], ["--method", "profile", "--n-texts", 1], ["--method", "mass", "--n-texts", 1, "--sink", 4, "--recent", 8]):
            gates = []
            for device in DEVICES:
                out = self.dir / (flags[1] + device)
                self.ok("identify", "--model", "demo", *EXACT, *flags, "--max-length", 80, "--device", device, "--out", out)
                table = (out / "full_attention_heads.tsv").read_text()
                gates.append([float(x) for x in table.split()])
            self.assertGreater(len(set(gates[1])), 1, flags)
            for a, b in zip(*gates, strict=True):
                self.assertAlmostEqual(a, b, 3, flags)

    def test_bench_and_plan(self):
        bench = self.ok("bench", *SPLIT, "--device", "cuda", "--depths", 100, "--decode", 2, "--prefill", 10, "--repeat", 1,
                        "--fill", "synthetic", "--json").json()  # fmt: skip
        self.assertEqual(bench["machine"]["isa"], "this machine's CPU")  # the device's name
        self.assertGreater(bench["device_bytes"], 0)
        self.assertEqual({row["test"] for row in bench["rows"]}, {"decode", "prefill"})
        for row in bench["rows"]:
            self.assertGreater(row["attention_ms"], 0)
            self.assertGreater(row["linear_ms"], 0)
        self.assertIn("with duo", self.ok("plan", *SPLIT, "--device", "cuda").out)
        self.fails(1, "are available", "bench", *SPLIT, "--device", "cuda", "--depths", 10**8, "--fill", "synthetic")

    def test_serve(self):
        flags = ["--device", "cuda", *EXACT, "--snapshot-every", 16, "--session-dir", self.dir / "sessions"]
        server = self.serve(*flags)
        answers = in_threads([lambda: server.complete(QUESTION, 5, duo={"cache": "a"})[0],
                              lambda: server.complete("The cow", 5)[0]])  # fmt: skip
        self.assertEqual(answers[0], "48213")
        self.assertEqual(answers[1], self.ok("generate", *SPLIT, *EXACT, "--max-tokens", 5, "--prompt", "The cow").out.rstrip("\n"))
        self.assertEqual(server.request("POST", "/v1/sessions/a/save").status, 200)
        self.assertEqual(server.stop(), 0, server.log_text())
        text, cached, _ = self.serve(*flags).complete(QUESTION, 5, duo={"cache": "a"})
        self.assertEqual(text, "48213")
        self.assertGreater(cached, 30)  # with f32, prefixes are reused up to a snapshot


if __name__ == "__main__":
    main()
