#!/usr/bin/env python3
"""Makes the golden cases in tests/data/golden: small random models, and the outputs of a float64 transformer.

    python3 tools/make_golden.py tests/data/golden

The transformer is independent of the engine. It is written from the papers and the Hugging Face conventions, in plain
numpy with double precision, dense masks and one matrix per step. It needs only numpy. The same seed gives the same
files.
"""
import json
import math
import struct
import sys
from pathlib import Path

import numpy as np

Config = dict
Weights = dict[str, np.ndarray]

BASE: Config = dict(
    vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=512,
    tie_word_embeddings=False, hidden_act="silu", torch_dtype="bfloat16", bos_token_id=1, eos_token_id=2,
)

# name: (changes to BASE, storage type, shards)
CASES: dict[str, tuple[Config, str, int]] = {
    "llama_tied_linear": (
        dict(model_type="llama", tie_word_embeddings=True, rope_scaling=dict(type="linear", factor=2.5)), "F32", 1),
    "llama_biases_sharded_f16": (
        dict(model_type="llama", attention_bias=True, mlp_bias=True, hidden_size=36, num_attention_heads=6,
             num_key_value_heads=2, head_dim=12, torch_dtype="float16"), "F16", 3),
    "mistral_mha": (
        dict(model_type="mistral", hidden_size=36, num_attention_heads=3, num_key_value_heads=3, head_dim=10,
             sliding_window=None, rope_theta=1000000.0), "BF16", 1),
    "qwen2_dynamic": (
        dict(model_type="qwen2", use_sliding_window=False, sliding_window=128, max_window_layers=2,
             layer_types=["full_attention", "full_attention"], rope_scaling=dict(rope_type="dynamic", factor=2.0)),
        "BF16", 1),
    "qwen3_yarn": (
        dict(model_type="qwen3", head_dim=16, rope_theta=None,
             rope_parameters=dict(rope_type="yarn", rope_theta=5000.0, factor=4.0,
                                  original_max_position_embeddings=64)), "BF16", 1),
    "llama3_rope_group8": (
        dict(model_type="llama", num_attention_heads=8, num_key_value_heads=1, head_dim=8,
             rope_scaling=dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                               original_max_position_embeddings=32)), "BF16", 1),
}


def head_dim(config: Config) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def rope_angles(config: Config) -> tuple[np.ndarray, float]:
    """The angle per position of each pair [head_dim / 2], and the factor of cos and sin."""
    d = head_dim(config)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config["rope_theta"]
    kind = rope.get("rope_type") or rope.get("type") or "default"
    angles = theta ** (-np.arange(0, d, 2, dtype=np.float64) / d)
    if kind in ("default", "dynamic"):  # dynamic equals default up to the trained length
        return angles, 1.0
    factor = rope["factor"]
    if kind == "linear":
        return angles / factor, 1.0
    trained = rope["original_max_position_embeddings"]
    if kind == "llama3":
        turns = trained * angles / (2 * math.pi)  # full turns of each pair over the trained length
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        return angles * (smooth + (1 - smooth) / factor), 1.0
    assert kind == "yarn", kind
    def correction(turns: float) -> float:  # arXiv:2309.00071
        return d * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))
    low, high = max(math.floor(correction(32)), 0), min(math.ceil(correction(1)), d - 1)
    ramp = np.clip((np.arange(d // 2) - low) / max(high - low, 0.001), 0, 1)
    return angles * (1 - ramp) + angles / factor * ramp, 0.1 * math.log(factor) + 1


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x: np.ndarray, angles: np.ndarray, amplitude: float) -> np.ndarray:
    """Rotates x [tokens, heads, head_dim]. Dimension i pairs with i + head_dim / 2."""
    turn = np.arange(len(x))[:, None, None] * angles
    a, b = np.split(x, 2, -1)
    cos, sin = np.cos(turn) * amplitude, np.sin(turn) * amplitude
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def visible(n: int, sink: int, recent: int) -> np.ndarray:
    """The exact Lambda mask, [query, key]."""
    i, j = np.arange(n)[:, None], np.arange(n)[None]
    return (j <= i) & ((j < sink) | (i - j < recent))


def attention(x: np.ndarray, w: Weights, prefix: str, config: Config, retrieval: list[int], sink: int,
              recent: int) -> np.ndarray:
    """Attention of all q heads before o_proj, [tokens, heads, head_dim]."""
    n, d = len(x), head_dim(config)
    n_heads, n_kv = config["num_attention_heads"], config["num_key_value_heads"]
    def project(name: str, heads: int) -> np.ndarray:
        return (x @ w[f"{prefix}{name}_proj.weight"].T + w.get(f"{prefix}{name}_proj.bias", 0)).reshape(n, heads, d)
    q, k, v = project("q", n_heads), project("k", n_kv), project("v", n_kv)
    if config["model_type"] == "qwen3":
        q = rms_norm(q, w[prefix + "q_norm.weight"], config["rms_norm_eps"])
        k = rms_norm(k, w[prefix + "k_norm.weight"], config["rms_norm_eps"])
    angles, amplitude = rope_angles(config)
    q, k = rotate(q, angles, amplitude), rotate(k, angles, amplitude)
    out = np.zeros((n, n_heads, d))
    for h in range(n_heads):
        kv = h // (n_heads // n_kv)
        mask = visible(n, n, n) if retrieval[kv] else visible(n, sink, recent)
        scores = np.where(mask, q[:, h] @ k[:, kv].T / math.sqrt(d), -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, h] = p / p.sum(-1, keepdims=True) @ v[:, kv]
    return out


def rest_of_layer(x: np.ndarray, attended: np.ndarray, w: Weights, p: str, config: Config) -> np.ndarray:
    """x after the layer with prefix p, from x before the layer and the heads' attention."""
    x = x + attended.reshape(len(x), -1) @ w[p + "self_attn.o_proj.weight"].T + w.get(p + "self_attn.o_proj.bias", 0)
    h = rms_norm(x, w[p + "post_attention_layernorm.weight"], config["rms_norm_eps"])
    gate = h @ w[p + "mlp.gate_proj.weight"].T + w.get(p + "mlp.gate_proj.bias", 0)
    up = h @ w[p + "mlp.up_proj.weight"].T + w.get(p + "mlp.up_proj.bias", 0)
    return x + gate / (1 + np.exp(-gate)) * up @ w[p + "mlp.down_proj.weight"].T + w.get(p + "mlp.down_proj.bias", 0)


def forward(ids: list[int], w: Weights, config: Config, retrieval: list[list[int]], sink: int,
            recent: int) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states after the final norm [n, hidden] and logits [n, vocab]."""
    eps = config["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        x = rest_of_layer(x, attention(h, w, p + "self_attn.", config, retrieval[layer], sink, recent), w, p, config)
    hidden = rms_norm(x, w["model.norm.weight"], eps)
    head = w["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return hidden, hidden @ head.T


def distill_loss(ids: list[int], w: Weights, config: Config, gates: np.ndarray, sink: int, recent: int,
                 labels: tuple[int, int]) -> float:
    """DuoAttention's loss (arXiv:2410.10819 section 2.2). The teacher has full attention. The student's heads mix the
    teacher's full attention with their own streaming attention. The loss is the mean squared difference of their hidden
    states at the labels."""
    eps, group = config["rms_norm_eps"], config["num_attention_heads"] // config["num_key_value_heads"]
    everything, nothing = np.ones(gates.shape[1], int), np.zeros(gates.shape[1], int)
    teacher = student = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        norm = w[p + "input_layernorm.weight"]
        full = attention(rms_norm(teacher, norm, eps), w, p + "self_attn.", config, everything, sink, recent)
        streaming = attention(rms_norm(student, norm, eps), w, p + "self_attn.", config, nothing, sink, recent)
        gate = np.repeat(gates[layer], group)[None, :, None]
        teacher = rest_of_layer(teacher, full, w, p, config)
        student = rest_of_layer(student, gate * full + (1 - gate) * streaming, w, p, config)
    rows, norm = slice(labels[0], labels[1] + 1), w["model.norm.weight"]
    return float(((rms_norm(teacher[rows], norm, eps) - rms_norm(student[rows], norm, eps)) ** 2).mean())


def identify_case(ids: list[int], w: Weights, config: Config, gates: np.ndarray, sink: int, recent: int) -> dict:
    labels, reg_weight, step = (len(ids) * 2 // 3, len(ids) - 1), 0.05, 1e-5
    def loss(at: np.ndarray) -> float: return distill_loss(ids, w, config, at, sink, recent, labels)
    gradient = np.zeros(gates.shape)  # by central differences, with an error of O(step^2)
    for i in range(gates.size):
        bump = np.zeros(gates.size)
        bump[i] = step
        bump = bump.reshape(gates.shape)
        gradient.flat[i] = (loss(gates + bump) - loss(gates - bump)) / (2 * step) + reg_weight / gates.size
    return dict(label_positions=labels, reg_weight=reg_weight, distill_loss=loss(gates),
                reg_loss=float(abs(gates).mean()), alpha_grad=gradient.tolist())


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    c, d, hidden = config, head_dim(config), config["hidden_size"]
    q, kv, wide = c["num_attention_heads"] * d, c["num_key_value_heads"] * d, c["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    qkv_bias = c["model_type"] == "qwen2" or c.get("attention_bias", False)
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        linear = {"self_attn.q_proj": (q, hidden, qkv_bias), "self_attn.k_proj": (kv, hidden, qkv_bias),
                  "self_attn.v_proj": (kv, hidden, qkv_bias),
                  "self_attn.o_proj": (hidden, q, c.get("attention_bias", False)),
                  "mlp.gate_proj": (wide, hidden, c.get("mlp_bias", False)),
                  "mlp.up_proj": (wide, hidden, c.get("mlp_bias", False)),
                  "mlp.down_proj": (hidden, wide, c.get("mlp_bias", False))}
        for name, (rows, columns, bias) in linear.items():
            shapes[f"{p}{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{p}{name}.bias"] = (rows,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{p}{name}.weight"] = (hidden,)
        if c["model_type"] == "qwen3":
            shapes[p + "self_attn.q_norm.weight"] = shapes[p + "self_attn.k_norm.weight"] = (d,)
    shapes["model.norm.weight"] = (hidden,)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], hidden)
    return shapes


def to_stored(x: np.ndarray, storage: str) -> tuple[bytes, np.ndarray]:
    """The bytes of x in its storage type, and the values that these bytes encode."""
    if storage == "F32":
        return x.astype("<f4").tobytes(), x.astype("<f4").astype(np.float64)
    if storage == "F16":
        return x.astype("<f2").tobytes(), x.astype("<f2").astype(np.float64)
    bits = x.astype("<f4").view("<u4")
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # round to nearest even
    return bits.astype("<u2").tobytes(), (bits.astype("<u4") << 16).view("<f4").astype(np.float64)


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = dict(dtype=dtype, shape=list(shape), data_offsets=[offset, offset + len(data)])
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def make_weights(config: Config, storage: str, rng: np.random.Generator) -> tuple[Weights, dict]:
    weights, stored = {}, {}
    for name, shape in tensor_shapes(config).items():
        x = rng.standard_normal(shape)
        if "norm" in name:
            x = 1 + 0.2 * x
        elif name.endswith("bias"):
            x = 0.3 * x
        elif "embed" not in name:
            x = x * 1.6 / math.sqrt(shape[1])  # strong enough that attention matters
        data, weights[name] = to_stored(x, storage)
        stored[name] = (storage, shape, data)
    return weights, stored


def write_model(directory: Path, config: Config, stored: dict, shards: int) -> None:
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    if shards == 1:
        write_safetensors(directory / "model.safetensors", stored)
        return
    names, index = list(stored), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]
        write_safetensors(directory / file, {name: stored[name] for name in part})
        index.update({name: file for name in part})
    text = json.dumps(dict(metadata=dict(total_size=sum(len(t[2]) for t in stored.values())), weight_map=index))
    (directory / "model.safetensors.index.json").write_text(text)


def choose_heads(gates: np.ndarray, sparsity: float) -> list[list[int]]:
    """Chooses the N - ceil(s (N-1)) highest gates. Ties go to the lower layer, then to the lower head."""
    keep = gates.size - math.ceil(sparsity * (gates.size - 1))
    order = sorted(range(gates.size), key=lambda i: (-gates.flat[i], i))
    chosen = np.zeros(gates.size, int)
    chosen[order[:keep]] = 1
    return chosen.reshape(gates.shape).tolist()


def greedy(prompt: list[int], n: int, run) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(run(ids)[1][-1].argmax()))
    return ids[len(prompt):]


def make_case(directory: Path, name: str, seed: int) -> None:
    changes, storage, shards = CASES[name]
    config = {k: v for k, v in {**BASE, **changes}.items() if v is not None or k == "sliding_window"}
    config.setdefault("architectures", [config["model_type"].capitalize() + "ForCausalLM"])
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    weights, stored = make_weights(config, storage, rng)
    write_model(directory, config, stored, shards)
    sink, recent, sparsity = 3, 17, 0.5
    gates = rng.random((config["num_hidden_layers"], config["num_key_value_heads"]))
    retrieval, everything = choose_heads(gates, sparsity), np.ones(gates.shape, int).tolist()
    (directory / "pattern").mkdir(exist_ok=True)
    np.savetxt(directory / "pattern" / "full_attention_heads.tsv", gates, delimiter="\t")
    (directory / "pattern" / "config.json").write_text(json.dumps(dict(sink_size=sink, recent_size=recent)))
    prompt = rng.integers(3, config["vocab_size"], 101).tolist()
    def full(ids: list[int]): return forward(ids, weights, config, everything, sink, recent)
    def duo(ids: list[int]): return forward(ids, weights, config, retrieval, sink, recent)
    positions = sorted({0, 1, 2, 16, 17, 18, 19, 20, 63, 64, 65, 99, 100})
    f64 = lambda x: ("F64", x.shape, np.ascontiguousarray(x, "<f8").tobytes())  # noqa: E731
    (hidden_full, logits_full), (hidden_duo, logits_duo) = full(prompt), duo(prompt)
    write_safetensors(directory / "golden.safetensors", dict(
        positions=("I64", (len(positions),), np.array(positions, "<i8").tobytes()),
        logits_full=f64(logits_full[positions]), logits_duo=f64(logits_duo[positions]),
        hidden_full_last=f64(hidden_full[-1]), hidden_duo_last=f64(hidden_duo[-1])))
    (directory / "golden.json").write_text(json.dumps(dict(
        prompt_ids=prompt, sink=sink, recent=recent, sparsity=sparsity, retrieval_heads=retrieval,
        greedy_full=greedy(prompt, 8, full), greedy_duo=greedy(prompt, 8, duo),
        identify=identify_case(prompt, weights, config, gates, sink, recent))))
    print(f"{name}: largest logit {abs(logits_full).max():.2f}, "
          f"full and duo differ by {abs(logits_full - logits_duo).max():.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for number, case in enumerate(CASES):
        make_case(Path(sys.argv[1]) / case, case, 1000 + number)
