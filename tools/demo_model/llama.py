"""The demo model's Llama in PyTorch. Callers can replace the attention of every layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Iterator

import torch
import torch.nn.functional as F

# (layer, queries [batch, n_heads, len, head_dim], keys and values [batch, n_kv_heads, len, head_dim]) -> [as queries].
# Queries and keys are rotated. Query head h reads KV head h // (n_heads / n_kv_heads).
Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LlamaConfig:
    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 384
    n_layers: int = 4
    n_heads: int = 8
    n_kv_heads: int = 4
    head_dim: int = 32
    rope_theta: float = 1e6
    norm_eps: float = 1e-5
    max_positions: int = 32768

    @property
    def qkv_sizes(self) -> list[int]:
        """Rows of the query, key and value parts of LayerWeights.qkv."""
        return [n * self.head_dim for n in (self.n_heads, self.n_kv_heads, self.n_kv_heads)]


@dataclass
class LayerWeights:
    attention_norm: torch.Tensor  # [hidden]
    mlp_norm: torch.Tensor  # [hidden]
    qkv: torch.Tensor  # [sum(qkv_sizes), hidden]
    attention_output: torch.Tensor  # [hidden, n_heads * head_dim]
    gate_up: torch.Tensor  # [2 * intermediate, hidden]
    down: torch.Tensor  # [hidden, intermediate]


@dataclass
class LlamaWeights:
    embedding: torch.Tensor  # [vocab, hidden], also the output matrix
    layers: list[LayerWeights]
    final_norm: torch.Tensor  # [hidden]

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield self.embedding
        for layer in self.layers:
            yield from vars(layer).values()
        yield self.final_norm


def random_weights(config: LlamaConfig, seed: int) -> LlamaWeights:
    """Trainable fp32 weights. The matrices that write to the residual stream are scaled by 1 / sqrt(2 n_layers)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int, std: float) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * std).requires_grad_()

    def ones() -> torch.Tensor:
        return torch.ones(config.hidden_size, requires_grad=True)

    hidden, intermediate = config.hidden_size, config.intermediate_size
    heads_size = config.n_heads * config.head_dim
    residual_scale = 1 / math.sqrt(2 * config.n_layers)
    embedding = normal(config.vocab_size, hidden, 0.08)
    layers = [
        LayerWeights(
            attention_norm=ones(),
            mlp_norm=ones(),
            qkv=normal(sum(config.qkv_sizes), hidden, hidden**-0.5),
            attention_output=normal(hidden, heads_size, heads_size**-0.5 * residual_scale),
            gate_up=normal(2 * intermediate, hidden, hidden**-0.5),
            down=normal(hidden, intermediate, intermediate**-0.5 * residual_scale),
        )
        for _ in range(config.n_layers)
    ]
    return LlamaWeights(embedding, layers, ones())


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE as Hugging Face does it: dimension i pairs with i + head_dim / 2."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def full_attention(_layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Causal attention over all earlier tokens and the token itself."""
    group = queries.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)


class Llama:
    """`product_dtype` is the type of the matrix products. Weights, activations and all other arithmetic are fp32."""

    def __init__(self, config: LlamaConfig, weights: LlamaWeights, product_dtype: torch.dtype = torch.float32):
        self.config = config
        self.weights = weights
        self._product_dtype = product_dtype
        half_dim = config.head_dim // 2
        self._frequencies = config.rope_theta ** (-torch.arange(half_dim, dtype=torch.float64) / half_dim)

    def hidden_states(
        self, ids: torch.Tensor, positions: torch.Tensor | None = None, attention: Attention = full_attention
    ) -> torch.Tensor:
        """ids, positions [batch, len] (default 0, 1, ..) -> states after the final norm [batch, len, hidden]."""
        config, weights = self.config, self.weights
        batch, length = ids.shape
        if positions is None:
            positions = torch.arange(length).expand(batch, length)
        angles = positions[:, None, :, None].double() * self._frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        x = F.embedding(ids, weights.embedding)
        for i, layer in enumerate(weights.layers):
            qkv = self._linear(rms_norm(x, layer.attention_norm, config.norm_eps), layer.qkv)
            heads = qkv.view(batch, length, -1, config.head_dim).transpose(1, 2)
            queries, keys, values = heads.split([config.n_heads, config.n_kv_heads, config.n_kv_heads], 1)
            heads = attention(i, rotate(queries, cos, sin), rotate(keys, cos, sin), values)
            x = x + self._linear(heads.transpose(1, 2).reshape(batch, length, -1), layer.attention_output)
            gate_up = self._linear(rms_norm(x, layer.mlp_norm, config.norm_eps), layer.gate_up)
            gate, up = gate_up.chunk(2, -1)
            x = x + self._linear(F.silu(gate) * up, layer.down)
        return rms_norm(x, weights.final_norm, config.norm_eps)

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[.., hidden] -> [.., vocab]."""
        return self._linear(hidden_states, self.weights.embedding)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        dtype = self._product_dtype
        return (x.to(dtype) @ weight.to(dtype).t()).float()
