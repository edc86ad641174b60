"""DuoAttention (arXiv:2410.10819) over the demo model: the exact Lambda mask and the split by heads."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from demo_model.llama import Attention, full_attention

_BLOCK = 256  # queries per block; the mask is at most [_BLOCK, sink + recent + _BLOCK] for any length


def streaming_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sink: int, recent: int
) -> torch.Tensor:
    """Attention with the exact Lambda mask: query i sees key j iff j <= i and (j < sink or i - j < recent). The shapes
    are those of llama.Attention. The cost is linear in the length, and the result is differentiable."""
    group, length = queries.shape[1] // keys.shape[1], queries.shape[2]
    keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
    outputs = []
    for begin in range(0, length, _BLOCK):
        end = min(begin + _BLOCK, length)
        n_sink = min(sink, end)
        window_begin = min(max(sink, begin - recent + 1), end)
        key_index = torch.cat([torch.arange(n_sink), torch.arange(window_begin, end)])
        query_index = torch.arange(begin, end)[:, None]
        visible = (key_index <= query_index) & ((key_index < sink) | (query_index - key_index < recent))
        block_queries = queries[:, :, begin:end]
        block_keys, block_values = (torch.cat([x[:, :, :n_sink], x[:, :, window_begin:end]], 2) for x in (keys, values))
        outputs.append(F.scaled_dot_product_attention(block_queries, block_keys, block_values, attn_mask=visible))
    return torch.cat(outputs, 2)


def split_attention(retrieval: np.ndarray, sink: int, recent: int) -> Attention:
    """Full attention for the KV heads where `retrieval` [layers, kv_heads] bool is set, streaming attention for
    others."""
    retrieval_heads = torch.from_numpy(retrieval)

    def attention(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        full = retrieval_heads[layer]
        group = queries.shape[1] // keys.shape[1]
        full_queries = full.repeat_interleave(group)
        output = torch.empty_like(queries)
        if full.any():
            output[:, full_queries] = full_attention(layer, queries[:, full_queries], keys[:, full], values[:, full])
        if not full.all():
            output[:, ~full_queries] = streaming_attention(
                queries[:, ~full_queries], keys[:, ~full], values[:, ~full], sink, recent
            )
        return output

    return attention


def choose_retrieval_heads(scores: np.ndarray, sparsity: float) -> np.ndarray:
    """Chooses as `duo` does: scores [layers, kv_heads] -> bool. The N - ceil(sparsity (N - 1)) highest of N heads are
    retrieval heads, none at sparsity 1. Ties go to the lower layer, then to the lower head."""
    n_heads = scores.size
    n_retrieval = 0 if sparsity >= 1 else n_heads - math.ceil(max(sparsity, 0) * (n_heads - 1))
    chosen = np.zeros(n_heads, bool)
    chosen[np.argsort(-scores.ravel(), kind="stable")[:n_retrieval]] = True
    return chosen.reshape(scores.shape)
