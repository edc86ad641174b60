"""Tests `duo quantize`, and models whose weights are int8 or int4."""

import json
import os
import pathlib
import shutil
import signal
import struct
import time

from cli_harness import MODEL, QUESTION, CliTest, main, read_safetensors, start  # fmt: skip


def header(path):
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + n])


class QuantizeTest(CliTest):
    def quantized(self, weights):
        out = self.dir / weights
        return out, self.ok("quantize", "--model", "demo", "--weights", weights, "--out", out, "--json").json()

    def logits(self, *args):
        out = self.dir / "logits.safetensors"
        self.ok("logits", "--ids", self.ids(40), "--out", out, "--positions", "all", "--compute", "f32", *args)
        return read_safetensors(out)["logits"][2]

    def test_the_checkpoint_is_what_quantizing_at_start_gives(self):
        native = self.logits("--model", "demo")
        for weights, largest in [("int8", 0.01), ("int4", 0.15)]:
            out, report = self.quantized(weights)
            stored = self.logits("--model", out)
            self.assertEqual(stored, self.logits("--model", "demo", "--weights", weights), "bit for bit")
            self.assertNotEqual(stored, native)
            self.assertEqual(len(report["matrices"]), 4 * 7 + 1)  # the embedding is also the output matrix
            for matrix in report["matrices"]:
                self.assertGreater(matrix["error"], 0)
                self.assertLess(matrix["error"], largest, matrix["name"])
                self.assertGreater(matrix["outlier"], 1)
            self.assertLess(report["bytes_after"], 0.6 * report["bytes_before"])
            self.assertEqual((out / "tokenizer.json").read_bytes(), (pathlib.Path(MODEL) / "tokenizer.json").read_bytes())
            self.assertIn("48213", self.ok("generate", "--model", out, "--prompt", QUESTION, "--max-tokens", 8).out)

    def test_what_is_written_is_documented(self):
        out, _ = self.quantized("int8")
        tensors = header(out / "model.safetensors")
        q = tensors["model.layers.0.self_attn.q_proj.weight"]
        self.assertEqual((q["dtype"], q["shape"]), ("I8", [256, 128]))
        scale = tensors["model.layers.0.self_attn.q_proj.weight_scale"]
        self.assertEqual((scale["dtype"], scale["shape"]), ("F32", [256]))
        out, _ = self.quantized("int4")
        tensors = header(out / "model.safetensors")
        q = tensors["model.layers.0.self_attn.q_proj.weight"]
        self.assertEqual((q["dtype"], q["shape"]), ("U8", [16, 2 * 576]))
        self.assertEqual(tensors["model.embed_tokens.weight"]["dtype"], "I8")
        self.assertEqual(tensors["model.norm.weight"]["dtype"], "BF16")
        config = json.loads((out / "config.json").read_text())
        self.assertEqual(config["quantization_config"], {"quant_method": "duo", "version": 1, "weights": "int4"})

    def test_int8_products(self):
        out, _ = self.quantized("int8")
        text = self.ok("generate", "--model", out, "--compute", "int8", "--prompt", QUESTION, "--max-tokens", 8).out
        self.assertIn("48213", text)
        self.fails(2, ["--compute", "int8 weights"], "generate", "--model", "demo", "--compute", "int8", "--prompt", "x")

    def model_with_outliers(self):
        """Two models that compute the same to the last bit: the demo model with biases, and a copy of it with large
        channels before all four kinds of matrices."""
        plain, model = self.dir / "biased", self.dir / "outliers"
        shutil.copytree(MODEL, plain)
        config = json.loads((plain / "config.json").read_text())
        (plain / "config.json").write_text(json.dumps({**config, "attention_bias": True, "mlp_bias": True}))
        path = next(plain.glob("*.safetensors"))
        data = path.read_bytes()
        (n,) = struct.unpack("<Q", data[:8])
        tensors, values = json.loads(data[8 : 8 + n]), data[8 + n :]
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            n_out, begin = tensors[name]["shape"][0], len(values)
            # 0, 1/16, 1/8, -1/16, repeated
            values += struct.pack(f"<{n_out}H", *([0, 0x3D80, 0x3E00, 0xBD80][i % 4] for i in range(n_out)))
            offsets = [begin, len(values)]
            tensors[name.replace("weight", "bias")] = {"dtype": "BF16", "shape": [n_out], "data_offsets": offsets}
        text = json.dumps(tensors).encode()
        text += b" " * (-len(text) % 8)
        n = len(text)
        path.write_bytes(struct.pack("<Q", n) + text + values)
        shutil.copytree(plain, model)
        path = next(model.glob("*.safetensors"))
        data = bytearray(path.read_bytes())

        def scale(name, rows, columns, power, what="weight"):
            of = tensors[f"model.layers.1.{name}.{what}"]
            width = of["shape"][-1]
            begin = 8 + n + of["data_offsets"][0]
            for row in rows if rows is not None else range(of["shape"][0]):
                for column in columns if columns is not None else range(width):
                    at = begin + 2 * (row * width + column)
                    (bits,) = struct.unpack("<H", data[at : at + 2])
                    if bits & 0x7F80:  # not zero
                        data[at : at + 2] = struct.pack("<H", bits + (power << 7))

        for norm, matrices in [("input_layernorm", ["q", "k", "v"]), ("post_attention_layernorm", ["gate", "up"])]:
            scale(norm, [0], [5, 77], 7)
            for matrix in matrices:
                scale(f"{'self_attn' if norm.startswith('input') else 'mlp'}.{matrix}_proj", None, [5, 77], -7)
        scale("mlp.up_proj", [9], None, 7)
        scale("mlp.up_proj", [0], [9], 7, "bias")
        scale("mlp.down_proj", None, [9], -7)
        scale("self_attn.v_proj", [33], None, 7)  # a channel of KV head 1, which q heads 2 and 3 read
        scale("self_attn.v_proj", [0], [33], 7, "bias")
        scale("self_attn.o_proj", None, [2 * 32 + 1, 3 * 32 + 1], -7)
        path.write_bytes(data)
        return plain, model

    def test_smoothing_takes_outliers_out_of_activations(self):
        biased, model = self.model_with_outliers()
        self.assertEqual(self.logits("--model", model), self.logits("--model", biased), "bit for bit")
        self.assertNotEqual(self.logits("--model", model), self.logits("--model", "demo"))
        full = self.dir / "full.safetensors"
        short = ("--context", 512, "--windows", 1)
        self.ok("eval", "perplexity", "--model", model, *short, "--full-logits", full)
        divergence = {}
        for name, args in [("plain", []), ("smooth", ["--smooth", "builtin", "--smooth-tokens", 700])]:
            out = self.dir / name
            report = self.ok("quantize", "--model", model, "--weights", "int8", "--out", out, "--json", *args).json()
            rows = {(row["layer"], row["input"]): row for row in report["activations"]}
            self.assertEqual(len(rows), 4 * 4 if args else 0)
            for row in [rows[1, name] for name in ("q, k, v", "o", "gate, up", "down")] if args else []:
                self.assertGreater(row["channels"], 50, row)
                self.assertLess(row["smoothed_channels"], row["channels"] / 5, row)
                self.assertGreater(row["outlier"], rows[2, row["input"]]["outlier"] if row["input"] != "down" else 50)
            config = json.loads((out / "config.json").read_text())["quantization_config"]
            self.assertEqual(config.get("smoothing_alpha"), 0.5 if args else None)
            scored = self.ok("eval", "perplexity", "--model", out, "--compute", "int8", *short, "--against", full,
                             "--json").json()  # fmt: skip
            divergence[name] = scored["duo"]["kld"]
        self.assertLess(divergence["smooth"], divergence["plain"] / 20, divergence)
        tensors = header(self.dir / "smooth" / "model.safetensors")
        for name in ["input_layernorm.weight", "self_attn.v_proj.bias", "mlp.up_proj.bias"]:
            self.assertEqual(tensors["model.layers.1." + name]["dtype"], "F32")
        self.assertEqual(tensors["model.layers.1.self_attn.o_proj.bias"]["dtype"], "BF16")

    def test_smoothing_refuses(self):
        args = ("quantize", "--model", "demo", "--out", self.dir / "x", "--weights")
        self.fails(2, ["--smooth", "int8"], *args, "int4", "--smooth", "builtin")
        self.fails(1, ["--smooth", "/nowhere"], *args, "int8", "--smooth", "/nowhere")
        self.fails(2, ["--smooth-alpha"], *args, "int8", "--smooth", "builtin", "--smooth-alpha", "1.5")
        self.fails(2, ["--smooth-alpha requires --smooth"], *args, "int8", "--smooth-alpha", "0.4")
        self.fails(2, ["--smooth-tokens requires --smooth"], *args, "int8", "--smooth-tokens", 100)
        self.assertFalse((self.dir / "x").exists())

    def test_int4_weights_warn(self):
        args = ("generate", "--model", "demo", "--prompt", "x", "--max-tokens", 1, "--weights")
        self.assertIn("warning: with int4 weights", self.ok(*args, "int4").err)
        self.assertNotIn("warning", self.ok(*args, "int8").err)

    def test_the_table(self):
        run = self.ok("quantize", "--model", "demo", "--weights", "int4", "--out", self.dir / "x")
        self.assertIn("29 matrices", run.out)
        self.assertIn("_proj.weight", run.out)

    def test_bad_input(self):
        out, _ = self.quantized("int8")
        self.fails(2, ["already"], "quantize", "--model", out, "--weights", "int4", "--out", self.dir / "again")
        self.fails(2, ["already has a config.json"], "quantize", "--model", "demo", "--weights", "int4", "--out", out)
        self.fails(2, ["weights", "already"], "generate", "--model", out, "--weights", "int4", "--prompt", "x")
        self.fails(2, ["--weights"], "quantize", "--model", "demo", "--weights", "int3", "--out", self.dir / "x")
        self.fails(2, ["--out"], "quantize", "--model", "demo", "--weights", "int8")
        self.fails(1, ["/nowhere"], "quantize", "--model", "/nowhere", "--weights", "int8", "--out", self.dir / "x")
        self.assertFalse((self.dir / "x" / "config.json").exists())
        same = self.dir / "same"
        shutil.copytree(MODEL, same)
        self.fails(2, ["the model's own directory"], "quantize", "--model", same, "--weights", "int8", "--out", same)
        # A config that declares other weights than the file has is refused.
        for change, words in [({"weights": "int4"}, ["i8", "expected u8"]), ({"weights": "int2"}, ["int2"]),
                              ({"version": 9}, ["version 9"]), ({"quant_method": "gptq"}, ["gptq"])]:  # fmt: skip
            config = json.loads((out / "config.json").read_text())
            config["quantization_config"].update(change)
            broken = self.dir / ("broken-" + next(iter(change)))
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(out, broken)
            (broken / "config.json").write_text(json.dumps(config))
            self.fails(1, words, "generate", "--model", broken, "--prompt", "x")
        plain = self.dir / "plain"
        shutil.copytree(out, plain)
        config = json.loads((plain / "config.json").read_text())
        del config["quantization_config"]
        (plain / "config.json").write_text(json.dumps(config))
        self.fails(1, ["type i8", "expected F32, BF16 or F16"], "generate", "--model", plain, "--prompt", "x")

    def test_plan_and_bench_take_what_the_checkpoint_says(self):
        out, report = self.quantized("int8")
        plan = self.ok("plan", "--model", out, "--json").json()
        self.assertAlmostEqual(plan["weights_bytes"] / report["bytes_after"], 1, delta=0.01)
        shape = self.ok("plan", "--config", out / "config.json", "--json").json()
        self.assertAlmostEqual(shape["weights_bytes"] / report["bytes_after"], 1, delta=0.01)
        bench = self.ok("bench", "--model", out, "--compute", "int8", "--depths", 0, "--decode", 2, "--prefill", 8,
                        "--repeat", 1, "--json").json()  # fmt: skip
        self.assertEqual({row["weights"] for row in bench["rows"]}, {"int8"})

    def test_heads_are_found_without_training_alone(self):
        out, _ = self.quantized("int8")
        found = self.dir / "found"
        self.ok("identify", "--model", out, "--method", "profile", "--n-texts", 1, "--max-length", 600, "--out", found)
        self.assertTrue((found / "config.json").exists())
        words = ["plain weights", "int8"]
        self.fails(1, words, "identify", "--model", out, "--steps", 1, "--max-length", 600, "--out", self.dir / "x")
        self.fails(1, words, "identify", "probe", "--model", out, "--ids", self.ids(40), "--labels", "20:39",
                   "--pattern", "demo", "--json")  # fmt: skip

    def test_a_killed_run_leaves_nothing_that_opens(self):
        out = self.dir / "killed"
        process = start("quantize", "--model", "demo", "--weights", "int4", "--out", out)
        while process.poll() is None and not out.exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (out / "config.json").exists():
            self.skipTest("SKIPPED: the run was faster than the kill")
        self.fails(1, ["config.json"], "generate", "--model", out, "--prompt", "x")
        self.ok("quantize", "--model", "demo", "--weights", "int4", "--out", out)
        self.assertIn("config.json", os.listdir(out))


if __name__ == "__main__":
    main()
