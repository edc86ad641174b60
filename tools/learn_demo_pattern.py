#!/usr/bin/env python3
"""Learns which KV heads of the demo model are retrieval heads, as DuoAttention does (arXiv:2410.10819).

    python3 tools/learn_demo_pattern.py [--model models/demo] --out DIR [--seed 0] [--threads 1]

It writes DIR/full_attention_heads.tsv (gates, layers x KV heads) and DIR/config.json. It needs torch and numpy.
Building and running duo needs neither. It takes about a minute on one core.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from demo_model.checkpoint import load_model, save_pattern
from demo_model.duo_attention import streaming_attention
from demo_model.generator import Text, TextGenerator, TextOptions
from demo_model.llama import Llama, full_attention

PROSE_SEED = 11  # differs from the seed of training


@dataclass(frozen=True)
class Settings:
    """The settings that are written to config.json. The names are those of the published patterns."""

    num_steps: int = 250
    lr: float = 0.02  # the peak learning rate
    reg_weight: float = 0.5  # this small model: 0.05 leaves most gates near 0.9, 1.0 all but four below 0.3
    initial_value: float = 1.0
    context_length_min: int = 256  # tokens, questions and answers included
    context_length_max: int = 1024
    num_passkeys: int = 10  # maximum number of facts; fewer when they do not fit
    sink_size: int = 16  # tokens
    recent_size: int = 64
    batch_size: int = 1
    seed: int = 0


def two_stream_hidden_states(
    model: Llama, gates: torch.Tensor, ids: torch.Tensor, sink: int, recent: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Final states [batch, len, hidden] of teacher and student. The teacher has full attention and takes no gradient.
    In the student a KV head gives gate * (the teacher's output of that head) + (1 - gate) * (streaming attention on the
    student's own queries, keys and values)."""
    teacher_heads: list[torch.Tensor] = []

    def record(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        teacher_heads.append(full_attention(layer, queries, keys, values))
        return teacher_heads[-1]

    def mix(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        gate = gates[layer].repeat_interleave(queries.shape[1] // keys.shape[1])[:, None, None]
        return gate * teacher_heads[layer] + (1 - gate) * streaming_attention(queries, keys, values, sink, recent)

    with torch.no_grad():
        teacher = model.hidden_states(ids, attention=record)
    return teacher, model.hidden_states(ids, attention=mix)


def draw_text(generator: TextGenerator, rng: np.random.RandomState, settings: Settings) -> Text:
    """Draws a text whose needles and questions are in the order of their ordinals."""
    n_tokens = rng.randint(settings.context_length_min, settings.context_length_max + 1)
    for n_facts in range(settings.num_passkeys, 0, -1):
        text = generator.text(n_tokens, n_facts, TextOptions(in_order=True))
        if text is not None:
            return text
    raise ValueError(f"no fact fits into {n_tokens} tokens")


def trapezoid(step: int, n_steps: int) -> float:
    """Rises over the first fifth of the steps, and falls over the last fifth. Never below 0.1."""
    ramp = n_steps / 5
    return min(1, max((step + 1) / ramp, 0.1), max((n_steps - step) / ramp, 0.1))


def learn_gates(model: Llama, generator: TextGenerator, settings: Settings) -> np.ndarray:
    """Returns gates [layers, kv_heads] in 0..1."""
    gates = torch.full((model.config.n_layers, model.config.n_kv_heads), settings.initial_value, requires_grad=True)
    optimizer = torch.optim.AdamW([gates], weight_decay=0)
    rng = np.random.RandomState(settings.seed)
    for step in range(settings.num_steps):
        with torch.no_grad():
            gates.clamp_(0, 1)
        optimizer.param_groups[0]["lr"] = settings.lr * trapezoid(step, settings.num_steps)
        text = draw_text(generator, rng, settings)
        ids = torch.from_numpy(text.ids)[None]
        teacher, student = two_stream_hidden_states(model, gates, ids, settings.sink_size, settings.recent_size)
        labelled = slice(text.questions_start, None)  # questions and answers
        distill_loss = (teacher[:, labelled] - student[:, labelled]).pow(2).mean()
        reg_loss = gates.abs().mean()
        optimizer.zero_grad()
        (distill_loss + settings.reg_weight * reg_loss).backward()
        optimizer.step()
        if (step + 1) % 25 == 0:
            print(f"step {step + 1} distill loss {distill_loss.item():.4f} mean gate {reg_loss.item():.3f}", flush=True)
    return gates.detach().clamp(0, 1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description="Learns the DuoAttention gates of the demo model.")
    parser.add_argument("--model", type=Path, default=Path("models/demo"), help="Model directory.")
    parser.add_argument("--out", type=Path, required=True, help="Pattern directory to write.")
    parser.add_argument("--reg-weight", type=float, default=Settings.reg_weight)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = Settings(reg_weight=args.reg_weight, seed=args.seed)
    model, tokenizer = load_model(args.model)
    generator = TextGenerator(tokenizer, args.seed + 200, n_sentences=20000, prose_seed=PROSE_SEED)
    gates = learn_gates(model, generator, settings)
    save_pattern(args.out, gates, asdict(settings))
    for layer, row in enumerate(gates):
        print(f"layer {layer}:", "  ".join(f"{gate:.2f}" for gate in row))
    print("saved", args.out)


if __name__ == "__main__":
    main()
