#!/usr/bin/env python3
"""Measures how many hidden facts the demo model finds and prints the tables of models/demo/README.md as Markdown.

    python3 tools/eval_demo_model.py [--model models/demo] [--pattern DIR] [--seed 0] [--threads 1]
        [--lengths 1024:40,2048:40,4096:30,8192:10,16384:6,32768:2] [--duo-lengths 2048:12,4096:9]

Lengths are tokens:prompts. An empty list leaves the table out. The weights are BF16, and the arithmetic is fp32. The
texts are new ones with ten facts each (five passkeys, five codes).

An answer counts when each of its tokens, newline included, is the arg max after the right answers before it (teacher
forcing). For an exact match this is the same as greedy decoding. The script needs torch and numpy. Building and running
duo needs neither.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from demo_model.checkpoint import load_model, load_pattern
from demo_model.duo_attention import choose_retrieval_heads, split_attention
from demo_model.facts import FactKind
from demo_model.generator import Role, Text, TextGenerator, TextOptions
from demo_model.llama import Attention, Llama, full_attention
from demo_model.tokenizer import Tokenizer

PROSE_SEED = 12  # differs from the seeds of training and of the pattern
TEN_FACTS = [FactKind.PASSKEY] * 5 + [FactKind.CODE] * 5
KEPT_SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
N_RANDOM_CHOICES = 5
RANDOM_PROMPT_SHARE = 1 / 3

Lengths = list[tuple[int, int]]  # tokens, prompts


class Score(NamedTuple):
    exact_match: float
    passkeys: float
    codes: float
    prose_loss: float  # nats per token of the story without payloads


def parse_lengths(text: str) -> Lengths:
    pairs = [item.split(":") for item in text.split(",") if item]
    return [(int(n_tokens), int(n_prompts)) for n_tokens, n_prompts in pairs]


def draw_prompts(tokenizer: Tokenizer, n_tokens: int, n_prompts: int, seed: int) -> list[Text]:
    """Gives the same texts for the same arguments, so that every choice of heads is measured on the same prompts."""
    generator = TextGenerator(tokenizer, seed + n_tokens, n_sentences=20000, prose_seed=PROSE_SEED)
    options = TextOptions(kinds=TEN_FACTS)
    prompts: list[Text] = []
    while len(prompts) < n_prompts:
        text = generator.text(n_tokens, len(TEN_FACTS), options)
        if text is not None:
            prompts.append(text)
    return prompts


@torch.no_grad()
def score(model: Llama, prompts: list[Text], attention: Attention = full_attention) -> Score:
    found: dict[int, list[bool]] = {FactKind.PASSKEY: [], FactKind.CODE: []}
    losses = []
    for text in prompts:
        ids = torch.from_numpy(text.ids)
        states = model.hidden_states(ids[None], attention=attention)[0]
        correct = model.logits(states[text.questions_start - 1 : -1]).argmax(-1) == ids[text.questions_start :]
        for answer in text.answers:
            begin = answer.start - text.questions_start
            found[answer.kind].append(bool(correct[begin : begin + answer.length].all()))
        prose = np.where(text.roles[1 : text.questions_start] == Role.TEXT)[0]  # the positions that predict it
        losses.append(F.cross_entropy(model.logits(states[prose]), ids[prose + 1]).item())
    passkeys, codes = found[FactKind.PASSKEY], found[FactKind.CODE]
    return Score(np.mean(passkeys + codes), np.mean(passkeys), np.mean(codes), np.mean(losses))


def print_row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def print_header(*titles: str) -> None:
    print_row(*titles)
    print("|" + "---|" * len(titles))


def print_exact_match(model: Llama, tokenizer: Tokenizer, lengths: Lengths, seed: int) -> None:
    print_header("tokens", "prompts", "exact match", "passkeys", "codes", "prose loss")
    for n_tokens, n_prompts in lengths:
        result = score(model, draw_prompts(tokenizer, n_tokens, n_prompts, seed))
        rates = (f"{rate:.3f}" for rate in (result.exact_match, result.passkeys, result.codes))
        print_row(str(n_tokens), str(n_prompts), *rates, f"{result.prose_loss:.4f}")


def print_duo(model: Llama, tokenizer: Tokenizer, pattern: Path, lengths: Lengths, seed: int) -> None:
    """Prints the exact match by the share of retrieval heads, and the prose loss of the learned choice. The retrieval
    heads have the highest gates, the lowest gates, or are random. The others use the exact Lambda mask."""
    gates, sink, recent = load_pattern(pattern)
    rng = np.random.RandomState(seed)
    random_scores = [rng.permutation(gates.size).reshape(gates.shape) for _ in range(N_RANDOM_CHOICES)]

    def score_kept(head_scores: np.ndarray, kept_share: float, prompts: list[Text]) -> Score:
        retrieval = choose_retrieval_heads(head_scores, 1 - kept_share)
        return score(model, prompts, split_attention(retrieval, sink, recent))

    print(f"Sink {sink}, recent {recent}:\n")
    print_header("tokens", "choice", *(f"{share:.0%}".replace("%", " %") for share in KEPT_SHARES))
    prose_losses = []
    for n_tokens, n_prompts in lengths:
        prompts = draw_prompts(tokenizer, n_tokens, n_prompts, seed)
        for choice, head_scores in (("learned", gates), ("inverted", -gates)):
            results = [score_kept(head_scores, share, prompts) for share in KEPT_SHARES]
            print_row(str(n_tokens), choice, *(f"{result.exact_match:.3f}" for result in results))
            if choice == "learned":
                prose_losses.append((n_tokens, *(result.prose_loss for result in results)))
        some_prompts = prompts[: max(1, round(n_prompts * RANDOM_PROMPT_SHARE))]
        cells = []
        for share in KEPT_SHARES[1:-1]:
            rates = [score_kept(scores, share, some_prompts).exact_match for scores in random_scores]
            cells.append(f"{np.mean(rates):.3f}")
        print_row(str(n_tokens), f"random, mean of {N_RANDOM_CHOICES} ({len(some_prompts)} prompts)", "", *cells, "")
    for n_tokens, *losses in prose_losses:
        cells = (f"{share:.0%}: {loss:.4f}" for share, loss in zip(KEPT_SHARES, losses))
        print(f"\nProse loss with the learned choice at {n_tokens} tokens, by share kept:", ", ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints the tables of the demo model's README.")
    parser.add_argument("--model", type=Path, default=Path("models/demo"), help="Model directory.")
    parser.add_argument("--pattern", type=Path, help="Pattern directory (default: MODEL/pattern).")
    parser.add_argument("--lengths", type=parse_lengths, default="1024:40,2048:40,4096:30,8192:10,16384:6,32768:2")
    parser.add_argument("--duo-lengths", type=parse_lengths, default="2048:12,4096:9")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(args.model)
    if args.lengths:
        print_exact_match(model, tokenizer, args.lengths, args.seed)
        print()
    if args.duo_lengths:
        pattern = args.pattern or args.model / "pattern"
        print_duo(model, tokenizer, pattern, args.duo_lengths, args.seed)


if __name__ == "__main__":
    main()
