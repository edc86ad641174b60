"""Every verb reports a model with NaN or infinite weights in one sentence. Usage: broken_model_test.py DUO"""

import json
import shutil
import struct

from cli_harness import LLAMA2_TEMPLATE, MODEL, CliTest, duo, main
from serve_harness import Server

NAN = struct.pack("<H", 0x7FC0)  # as bf16
LARGEST = struct.pack("<H", 0x7F7F)
NAMED = ["NaN or infinite", "model broken"]
IN_LAYER_2 = [*NAMED, "layer 2"]


def read_model(path):
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    body = data[8 + n :]
    return {name: (e["dtype"], e["shape"], bytearray(body[slice(*e["data_offsets"])])) for name, e in header.items()}


def write_model(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


class BrokenModelTest(CliTest):
    def model(self, spoil, **config):
        """A copy of the embedded model after spoil(its tensors)."""
        folder = self.dir / "broken"
        folder.mkdir()
        for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MODEL / name, folder / name)
        shutil.copytree(MODEL / "pattern", folder / "pattern")
        facts = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**facts, **config}))
        tokens = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**tokens, "chat_template": LLAMA2_TEMPLATE}))
        tensors = read_model(MODEL / "model.safetensors")
        spoil(tensors)
        write_model(folder / "model.safetensors", tensors)
        return folder

    def nan_model(self):
        def spoil(tensors):
            tensors["model.layers.2.mlp.down_proj.weight"][2][10:12] = NAN

        return self.model(spoil)

    def bad_token_model(self, text):
        """A model whose states are NaN for one token only, that of `text`. Its output matrix has no NaN."""
        ids = [t["id"] for t in json.loads((MODEL / "tokenizer.json").read_text())["added_tokens"]]

        def spoil(tensors):
            dtype, shape, data = tensors["model.embed_tokens.weight"]
            tensors["lm_head.weight"] = (dtype, shape, bytearray(data))
            data[max(ids) * shape[1] * 2 : max(ids) * shape[1] * 2 + 2] = NAN

        return self.model(spoil, tie_word_embeddings=False)

    # ------------------------------------------------------------ verbs

    def test_generate_and_logits(self):
        model = self.nan_model()
        for sampling in [[], ["--temperature", 1], ["--temperature", 1, "--top-k", 5], ["--temperature", 1, "--top-p", 0.5],
                         ["--repetition-penalty", 1.5]]:  # fmt: skip
            self.fails(1, IN_LAYER_2, "generate", "--model", model, "--prompt", "The cow", "--max-tokens", 4, *sampling)
        for types in [["--kv-type", "int8"], ["--kv-type", "int4"], ["--compute", "f32"], ["--threads", 1]]:
            self.fails(1, IN_LAYER_2, "generate", "--model", model, "--prompt", "The cow", *types)
        ids = self.file("ids.json", json.dumps(list(range(1, 60))))
        for positions in ["last", "all", "3:5"]:
            self.fails(1, IN_LAYER_2, "logits", "--model", model, "--ids", ids, "--positions", positions, "--out",
                       self.dir / "logits.safetensors")  # fmt: skip
        self.assertFalse((self.dir / "logits.safetensors").exists())

    def test_an_overflow_is_said_too(self):
        def spoil(tensors):
            dtype, shape, data = tensors["model.layers.3.mlp.down_proj.weight"]
            data[:] = LARGEST * (len(data) // 2)
            data = tensors["model.layers.3.mlp.up_proj.weight"][2]
            data[:] = LARGEST * (len(data) // 2)

        model = self.model(spoil)
        self.fails(1, [*NAMED, "layer 3"], "generate", "--model", model, "--prompt", "The cow", "--temperature", 1)

    def test_chat_demo_and_bench(self):
        model = self.nan_model()
        run = duo("chat", "--model", model, stdin="The cow\n")
        self.assertEqual(run.code, 1, run.err)
        for part in IN_LAYER_2:
            self.assertIn(part, run.err)
        for bench in [["--depths", 64, "--prefill", 64], ["--depths", 64, "--prefill", 64, "--fill", "prefill"]]:
            run = duo("bench", "--model", model, *bench)
            self.assertEqual(run.code, 1, run.err)
            self.assertIn("NaN or infinite", run.err)

    def test_quantised_weights_name_the_tensor(self):
        model = self.nan_model()
        for type in ["int8", "int4"]:
            needles = ["model.layers.2.mlp.down_proj.weight", "row 0 has a NaN"]
            self.fails(1, needles, "generate", "--model", model, "--prompt", "a", "--weights", type)
            self.fails(1, needles, "quantize", "--model", model, "--weights", type, "--out", self.dir / type)
            self.assertFalse((self.dir / type / "model.safetensors").exists())
        self.fails(1, [*NAMED, "layer 3"], "quantize", "--model", model, "--weights", "int8", "--smooth", "builtin",
                   "--smooth-tokens", 100, "--out", self.dir / "smooth")  # fmt: skip

    def test_identify(self):
        model = self.nan_model()
        small = ["identify", "--model", model, "--max-length", 200, "--threads", 1]
        optimize = ["--min-length", 100, "--passkeys", 2, "--sink", 8, "--recent", 32, "--steps", 1]
        self.fails(1, NAMED, *small, *optimize, "--out", self.dir / "optimize")
        for method, more in {"repeat": ["--sink", 8], "profile": ["--n-texts", 2],
                             "mass": ["--n-texts", 2, "--sink", 8, "--recent", 32]}.items():  # fmt: skip
            self.fails(1, [*NAMED, "layer 3"], *small, "--method", method, *more, "--out", self.dir / method)
        ids = self.file("ids.json", json.dumps(list(range(1, 60))))
        self.fails(1, NAMED, "identify", "probe", "--model", model, "--ids", ids, "--labels", "50:55", "--pattern",
                   model / "pattern")  # fmt: skip

    def test_eval(self):
        model = self.nan_model()
        on = ["--model", model, "--pattern", model / "pattern"]
        short = ["--lengths", 600, "--needle-depths", 0.5]
        self.fails(1, IN_LAYER_2, "eval", "niah", *on, "--sparsity", 0.5, *short, "--n-texts", 1)
        self.fails(1, IN_LAYER_2, "eval", "perplexity", *on, "--context", 256, "--windows", 1)
        self.fails(1, IN_LAYER_2, "eval", "certify", *on, *short, "--context", 256, "--windows", 1, "--sparsities", "0.5")
        self.fails(1, IN_LAYER_2, "eval", "ruler", *on, "--sparsity", 0.5, "--length", 1500, "--samples", 1, "--tasks",
                   "niah_single_1")  # fmt: skip
        sample = {"input": "Who?", "context": "The cow feeds. " * 20, "answers": ["x"], "length": 9, "dataset": "qasper",
                  "language": "en", "all_classes": None, "_id": "1"}  # fmt: skip
        self.file("qasper.jsonl", json.dumps(sample) + "\n")
        self.fails(1, IN_LAYER_2, "eval", "longbench", *on, "--sparsity", 0.5, "--data", self.dir)

    def test_saved_logits_that_are_no_numbers(self):
        saved = self.dir / "full.safetensors"
        perplexity = ["eval", "perplexity", "--model", "demo", "--context", 64, "--windows", 1, "--full-logits", saved]
        self.ok(*perplexity)
        data = bytearray(saved.read_bytes())
        data[-4:] = struct.pack("<f", float("nan"))
        saved.write_bytes(data)
        self.fails(1, "the saved full logits", *perplexity)

    # ------------------------------------------------------------ the server

    def test_serve_answers_500_and_goes_on(self):
        broken = "<|end_of_text|>"
        server = Server(self.dir, model=self.bad_token_model(broken), pattern="none")
        self.addCleanup(server.stop)
        alone, _, _ = server.complete("The cow", 12)
        going_on = server.stream(body={"prompt": "The muddy horse", "max_tokens": 400, "temperature": 0,
                                       "duo": {"ignore_eos": True}})  # fmt: skip
        going_on.next()
        for fields in [{}, {"temperature": 1}, {"logprobs": 2}, {"echo": True, "logprobs": 1}]:
            answer = server.request("POST", "/v1/completions", {"prompt": "a" + broken + "b", **fields})
            self.assertEqual(answer.status, 500, answer.body)
            error = answer.error()
            self.assertEqual(error["type"], "server_error")
            self.assertIn("NaN or infinite", error["message"])
            self.assertIn("from the embedding of the tokens on", error["message"])
        chosen = {"prompt": "The cow", "max_tokens": 5, "logit_bias": {"1023": 100}, "duo": {"ignore_eos": True}}
        answer = server.request("POST", "/v1/completions", chosen)
        self.assertEqual(answer.status, 500, answer.body)
        # The error is the stream's last event, or the whole answer if it comes before the first event is written.
        answer = server.request("POST", "/v1/completions", {**chosen, "stream": True})
        self.assertIn(answer.status, [200, 500])
        self.assertIn(b"NaN or infinite", answer.body)
        self.assertNotIn(b"[DONE]", answer.body)
        going_on.read_all()
        self.assertTrue(going_on.done, going_on.events[-1])
        self.assertEqual(server.complete("The cow", 12)[0], alone)
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
