"""Checkpoints that differ from the embedded one: windows, YaRN, untied heads, unknown tensors, broken files."""

import json
import os
import struct

from cli_harness import MODEL, QUESTION, main, read_safetensors
from serve_harness import ServeTest

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 525280\n" % ("4d" * 32)


def read_tensors(path):
    """{name: (dtype, shape, bytes)}"""
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + n]).items():
        if name != "__metadata__":
            begin, end = (8 + n + offset for offset in entry["data_offsets"])
            tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    return tensors


def write_tensors(path, tensors):
    header, values = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(values), len(values) + len(raw)]}
        values += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def floats(*values):
    return ("F32", [len(values)], struct.pack("<%df" % len(values), *values))


class CheckpointTest(ServeTest):
    def model(self, name="model", change=None, **config):
        """The demo model with other keys in config.json and, after change(tensors), other tensors."""
        path = self.dir / name
        path.mkdir()
        for file in MODEL.iterdir():
            if file.is_file() and file.name != "config.json":
                os.symlink(file, path / file.name)
        merged = {**json.loads((MODEL / "config.json").read_text()), **config}
        (path / "config.json").write_text(json.dumps({k: v for k, v in merged.items() if v != "absent"}))
        if change:
            tensors = read_tensors(MODEL / "model.safetensors")
            change(tensors)
            (path / "model.safetensors").unlink()
            write_tensors(path / "model.safetensors", tensors)
        return path

    def logits(self, model, *extra):
        out = self.dir / "logits.safetensors"
        run = self.ok("logits", "--model", model, "--ids", self.ids(40), "--out", out, "--compute", "f32", *extra)
        return read_safetensors(out)["logits"][2], run.err


class ContextTest(CheckpointTest):
    NOTE = "sliding_window: the context is limited to its 256 tokens, of 32768"

    def windowed(self):
        return self.model(model_type="mistral", sliding_window=256)

    def test_a_model_with_a_window_runs_up_to_it_and_says_so_once(self):
        model = self.windowed()
        run = self.ok("generate", "--model", model, "--prompt", QUESTION, "--max-tokens", 8)
        self.assertIn("48213", run.out)
        self.assertEqual(run.err.count("sliding_window"), 1)
        self.assertIn(self.NOTE, run.err)
        self.fails(1, ["sliding_window 256", "256 tokens"], "generate", "--model", model, "--ids", self.ids(257))
        self.fails(2, ["max-context", "257", "at most 256", "sliding_window 256"], "generate", "--model", model, "--prompt",
                   "The", "--max-context", 257)  # fmt: skip

    def test_the_window_s_absence_is_the_class_s_default(self):
        model = self.model(model_type="mistral")  # config.json of the demo model has no such key
        run = self.ok("plan", "--model", model, "--json", "--memory", "8GiB")
        self.assertEqual(run.json()["max_context_tokens"], 4096)
        self.assertIn("limited to its 4096 tokens", run.err)
        none = self.model("none", model_type="mistral", sliding_window=None)
        run = self.ok("plan", "--model", none, "--json", "--memory", "8GiB")
        self.assertGreater(run.json()["max_context_tokens"], 4096)
        self.assertEqual(run.err, "")

    def test_plan_stops_at_the_window(self):
        run = self.ok("plan", "--model", self.windowed(), "--memory", "8GiB")
        self.assertIn(self.NOTE, run.err)
        self.assertNotIn("all of it at 8,192 tokens", run.out)
        self.assertNotIn("trained for", run.out)

    def test_eval_follows(self):
        model = self.windowed()
        perplexity = ["eval", "perplexity", "--model", model, "--windows", 1, "--json", "--context"]
        run = self.ok(*perplexity, 256)
        self.assertEqual(run.err.count(self.NOTE), 1)
        self.fails(2, "the context is 256 tokens", *perplexity, 512)

    def test_serve_follows(self):
        server = self.serve(model=self.windowed(), pattern="none")
        self.assertEqual(server.status()["model"]["max_context"], 256)
        self.assertEqual(server.log_text().count(self.NOTE), 1)

    def test_yarn_stretches_the_context(self):
        yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
        model = self.model(max_position_embeddings=512, rope_scaling=yarn)
        self.ok("generate", "--model", model, "--ids", self.ids(2000), "--max-tokens", 1)
        self.fails(1, "2048 tokens this model was trained for", "generate", "--model", model, "--ids", self.ids(2049))
        self.ok("eval", "perplexity", "--model", model, "--windows", 1, "--context", 2048)
        plan = self.ok("plan", "--model", model, "--memory", "8GiB")
        self.assertIn("This model was trained for 2,048 tokens", plan.out)
        self.assertEqual(self.serve(model=model, pattern="none").status()["model"]["max_context"], 2048)

    def test_unknown_keys_of_rope_are_refused(self):
        scaling = {"rope_type": "yarn", "factor": 4.0, "attn_factor": 0.8782488562869419}
        self.fails(1, ["config.json: rope_scaling: attn_factor 0.878", "attention_factor"], "generate", "--model",
                   self.model(rope_scaling=scaling), "--prompt", "x")  # fmt: skip


class TensorsTest(CheckpointTest):
    def test_a_stored_head_counts_though_the_config_ties_it(self):
        def head(tensors):
            dtype, shape, raw = tensors["model.embed_tokens.weight"]
            tensors["lm_head.weight"] = (dtype, shape, raw[::-1][1:] + b"\0")

        def equal_head(tensors):
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]

        tied, err = self.logits(self.model("tied", head))
        self.assertIn("lm_head.weight: differs from the embedding", err)
        untied, err = self.logits(self.model("untied", head, tie_word_embeddings=False))
        self.assertNotIn("lm_head", err)
        self.assertEqual(tied, untied)
        equal, err = self.logits(self.model("equal", equal_head))
        self.assertNotIn("lm_head", err)
        self.assertEqual(equal, self.logits(MODEL)[0])
        # The output of duo quantize is such a model too.
        self.ok("quantize", "--model", self.dir / "tied", "--weights", "int8", "--out", self.dir / "int8")
        stored, err = self.logits(self.dir / "int8")
        self.assertIn("lm_head.weight: differs from the embedding", err)
        self.assertEqual(stored, self.logits(self.dir / "untied", "--weights", "int8")[0])

    def test_unknown_tensors_of_the_model_are_refused(self):
        name = "model.layers.0.self_attn.query_layernorm.weight"
        model = self.model(change=lambda tensors: tensors.update({name: floats(*[1] * 32)}))
        self.fails(1, [name, "would be wrong"], "generate", "--model", model, "--prompt", "x")

    def test_names_without_their_prefix(self):
        def strip(tensors):
            for name in list(tensors):
                tensors[name.removeprefix("model.")] = tensors.pop(name)

        bare = self.model(change=strip)
        self.assertEqual(self.logits(bare)[0], self.logits(MODEL)[0])
        self.ok("quantize", "--model", bare, "--weights", "int8", "--out", self.dir / "int8")
        self.assertEqual(self.logits(self.dir / "int8")[0], self.logits(MODEL, "--weights", "int8")[0])

    def test_an_index_that_lists_what_its_shard_lacks(self):
        model = self.model()
        names = [*read_tensors(MODEL / "model.safetensors"), "model.layers.0.self_attn.rotary_emb.inv_freq"]
        (model / "model.safetensors").rename(model / "one.safetensors")
        index = {"weight_map": {name: "one.safetensors" for name in names}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        self.assertEqual(self.logits(model)[0], self.logits(MODEL)[0])

    def test_channels_of_keys_that_stand_out(self):
        def attention(layer):
            return "model.layers.%d.self_attn." % layer

        def bias(value):
            def change(tensors):
                for layer in range(4):
                    tensors[attention(layer) + "q_proj.bias"] = floats(*[0] * 256)
                    tensors[attention(layer) + "v_proj.bias"] = floats(*[0] * 128)
                    planted = [value if layer == 2 and i == 33 else 0 for i in range(128)]
                    tensors[attention(layer) + "k_proj.bias"] = floats(*planted)

            return change

        def norm(weight):
            def change(tensors):
                for layer in range(4):
                    tensors[attention(layer) + "q_norm.weight"] = floats(*[1] * 32)
                    planted = [weight if layer == 2 and i == 7 else 1 for i in range(32)]
                    tensors[attention(layer) + "k_norm.weight"] = floats(*planted)

            return change

        qwen2 = {size: self.model("bias%d" % size, bias(size), model_type="qwen2") for size in (20, 200)}
        qwen3 = {size: self.model("norm%d" % size, norm(size), model_type="qwen3") for size in (1, 20, 200)}
        for model, kv_type, warned in [
            (MODEL, "int8", False), (MODEL, "int4", False),
            (qwen2[20], "bf16", False), (qwen2[20], "int8", False), (qwen2[20], "int4", True),
            (qwen2[200], "bf16", False), (qwen2[200], "int8", True), (qwen2[200], "int4", True),
            (qwen3[1], "int8", False), (qwen3[1], "int4", False),
            (qwen3[20], "bf16", False), (qwen3[20], "int8", False), (qwen3[20], "int4", True),
            (qwen3[200], "bf16", False), (qwen3[200], "int8", True), (qwen3[200], "int4", True),
        ]:  # fmt: skip
            with self.subTest(model=model.name, kv_type=kv_type):
                err = self.ok("generate", "--model", model, "--prompt", "The", "--max-tokens", 1, "--kv-type", kv_type).err
                self.assertEqual(err.count("has keys with a channel of size"), int(warned), err)
                self.assertEqual(err.count("warning: layer 2, KV head"), int(warned), err)
        server = self.serve("--kv-type", "int8", model=qwen2[200], pattern="none")
        self.assertIn("layer 2, KV head 1 has keys with a channel of size 200", server.log_text())


class FilesTest(CheckpointTest):
    def test_a_lora_folder(self):
        adapter = self.dir / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
        self.fails(1, ["adapter_config.json", "LoRA adapter", "some/base"], "generate", "--model", adapter, "--prompt", "x")
        model = self.model()
        os.symlink(adapter / "adapter_config.json", model / "adapter_config.json")
        self.assertIn("LoRA adapter lies beside the model", self.ok("plan", "--model", model).err)

    def test_an_end_of_text_outside_the_vocabulary(self):
        err = self.ok("plan", "--model", self.model(eos_token_id=[-1, 1024, 1023])).err
        self.assertIn("eos_token_id: -1 is ignored", err)
        self.assertIn("eos_token_id: 1024 is ignored", err)

    def test_links_to_nothing_and_lfs_pointers_are_named(self):
        for name in ["config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]:
            model = self.model("link_" + name)
            (model / name).unlink()
            os.symlink("../../blobs/4d7a", model / name)
            with self.subTest(link=name):
                needles = [str(model / name), "is a link to ../../blobs/4d7a, which does not exist"]
                self.fails(1, needles, "generate", "--model", model, "--prompt", "x")
            model = self.model("lfs_" + name)
            (model / name).unlink()
            (model / name).write_text(LFS_POINTER)
            with self.subTest(pointer=name):
                self.fails(1, [str(model / name), "is a git-lfs pointer"], "generate", "--model", model, "--prompt", "x")

    def test_no_name_of_an_exception(self):
        model = self.model()
        (model / "config.json").write_text('{"model_type": }')
        run = self.fails(1, ["config.json: not valid JSON", "line 1"], "generate", "--model", model, "--prompt", "x")
        self.assertNotIn("json.exception", run.err)
        ids = self.file("ids.json", "[1, 2")
        run = self.fails(1, "ids.json: not valid JSON", "generate", "--model", MODEL, "--ids", ids)
        self.assertNotIn("json.exception", run.err)


if __name__ == "__main__":
    main()
