"""Model directories in the Hugging Face layout and DuoAttention pattern directories."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import torch

from demo_model.llama import LayerWeights, Llama, LlamaConfig, LlamaWeights
from demo_model.tokenizer import SPECIALS, Tokenizer


def save_model(directory: Path, model: Llama, tokenizer: Tokenizer) -> None:
    """Writes config.json, generation_config.json, model.safetensors (BF16) and the tokenizer's two files."""
    directory.mkdir(parents=True, exist_ok=True)
    _save_safetensors(directory / "model.safetensors", _to_hugging_face(model))
    _save_json(directory / "config.json", _model_config(model.config, tokenizer))
    special_ids = dict(bos_token_id=tokenizer.bos_id, eos_token_id=tokenizer.eos_id)
    _save_json(directory / "generation_config.json", special_ids | dict(do_sample=False))
    _save_json(directory / "tokenizer_config.json", _tokenizer_config(model.config, tokenizer))
    tokenizer.save(directory / "tokenizer.json")


def load_model(directory: Path) -> tuple[Llama, Tokenizer]:
    """Reads the files that `save_model` wrote, for fp32 arithmetic. The weights take no gradient."""
    with open(directory / "config.json", encoding="utf-8") as file:
        fields = json.load(file)
    config = LlamaConfig(
        vocab_size=fields["vocab_size"],
        hidden_size=fields["hidden_size"],
        intermediate_size=fields["intermediate_size"],
        n_layers=fields["num_hidden_layers"],
        n_heads=fields["num_attention_heads"],
        n_kv_heads=fields["num_key_value_heads"],
        head_dim=fields["head_dim"],
        rope_theta=fields["rope_theta"],
        norm_eps=fields["rms_norm_eps"],
        max_positions=fields["max_position_embeddings"],
    )
    weights = _from_hugging_face(config.n_layers, _load_safetensors(directory / "model.safetensors"))
    return Llama(config, weights), Tokenizer.load(directory / "tokenizer.json")


def save_pattern(directory: Path, gates: np.ndarray, config: dict) -> None:
    """Writes gates [layers, kv_heads] to full_attention_heads.tsv, and config to config.json. config must have
    sink_size and recent_size."""
    directory.mkdir(parents=True, exist_ok=True)
    np.savetxt(directory / "full_attention_heads.tsv", gates, fmt="%.18e", delimiter="\t")
    _save_json(directory / "config.json", config)


def load_pattern(directory: Path) -> tuple[np.ndarray, int, int]:
    """The gates [layers, kv_heads] in 0..1, sink_size and recent_size (tokens)."""
    gates = np.loadtxt(directory / "full_attention_heads.tsv", delimiter="\t", ndmin=2)
    with open(directory / "config.json", encoding="utf-8") as file:
        config = json.load(file)
    return gates.clip(0, 1), config["sink_size"], config["recent_size"]


def _to_hugging_face(model: Llama) -> dict[str, torch.Tensor]:
    tensors = {"model.embed_tokens.weight": model.weights.embedding}
    for i, layer in enumerate(model.weights.layers):
        prefix = f"model.layers.{i}."
        for name, part in zip("qkv", layer.qkv.split(model.config.qkv_sizes)):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = part
        tensors[f"{prefix}self_attn.o_proj.weight"] = layer.attention_output
        for name, part in zip(("gate", "up"), layer.gate_up.chunk(2)):
            tensors[f"{prefix}mlp.{name}_proj.weight"] = part
        tensors[f"{prefix}mlp.down_proj.weight"] = layer.down
        tensors[f"{prefix}input_layernorm.weight"] = layer.attention_norm
        tensors[f"{prefix}post_attention_layernorm.weight"] = layer.mlp_norm
    tensors["model.norm.weight"] = model.weights.final_norm
    return tensors


def _from_hugging_face(n_layers: int, tensors: dict[str, torch.Tensor]) -> LlamaWeights:
    layers = []
    for i in range(n_layers):
        prefix = f"model.layers.{i}."
        layers.append(
            LayerWeights(
                attention_norm=tensors[f"{prefix}input_layernorm.weight"],
                mlp_norm=tensors[f"{prefix}post_attention_layernorm.weight"],
                qkv=torch.cat([tensors[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkv"]),
                attention_output=tensors[f"{prefix}self_attn.o_proj.weight"],
                gate_up=torch.cat([tensors[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up")]),
                down=tensors[f"{prefix}mlp.down_proj.weight"],
            )
        )
    return LlamaWeights(tensors["model.embed_tokens.weight"], layers, tensors["model.norm.weight"])


def _save_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in tensors.items():
        tensor_bytes = tensor.detach().bfloat16().contiguous().view(torch.int16).numpy().tobytes()
        offsets = [len(data), len(data) + len(tensor_bytes)]
        header[name] = dict(dtype="BF16", shape=list(tensor.shape), data_offsets=offsets)
        data += tensor_bytes
    header_bytes = json.dumps(header).encode()
    header_bytes += b" " * (-len(header_bytes) % 8)
    path.write_bytes(struct.pack("<Q", len(header_bytes)) + header_bytes + data)


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """BF16 tensors, widened to fp32."""
    content = path.read_bytes()
    (header_size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + header_size])
    data = memoryview(content)[8 + header_size :]
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise ValueError(f"{path}: {name}: dtype {entry['dtype']}, expected BF16")
        begin, end = entry["data_offsets"]
        values = torch.frombuffer(bytearray(data[begin:end]), dtype=torch.bfloat16)
        tensors[name] = values.view(entry["shape"]).float()
    return tensors


def _model_config(config: LlamaConfig, tokenizer: Tokenizer) -> dict:
    return dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        hidden_act="silu",
        rms_norm_eps=config.norm_eps,
        rope_theta=float(config.rope_theta),
        rope_scaling=None,
        max_position_embeddings=config.max_positions,
        attention_bias=False,
        mlp_bias=False,
        attention_dropout=0.0,
        initializer_range=0.02,
        pretraining_tp=1,
        tie_word_embeddings=True,
        use_cache=True,
        torch_dtype="bfloat16",
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
    )


def _tokenizer_config(config: LlamaConfig, tokenizer: Tokenizer) -> dict:
    flags = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    return dict(
        added_tokens_decoder={str(tokenizer.vocab[special]): dict(content=special, **flags) for special in SPECIALS},
        bos_token=SPECIALS[0],
        eos_token=SPECIALS[1],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=config.max_positions,
        tokenizer_class="PreTrainedTokenizerFast",
    )


def _save_json(path: Path, content: dict) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
