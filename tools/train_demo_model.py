#!/usr/bin/env python3
"""Trains the demo model of models/demo from scratch: a tokenizer and a Llama of 1.1 million parameters.

    python3 tools/train_demo_model.py --out DIR [--minutes 60] [--seed 0] [--threads 1] [--steps-log FILE]

It needs torch (2.0 or newer) and numpy. Building and running duo needs neither. The budget is the CPU time of this
process, all threads together, so that a shared or paused machine gives the same curriculum. The learning rate falls
over the last 30 % of the budget. demo_model/curriculum.py says where the stages end.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
import torch.nn.functional as F

from demo_model.checkpoint import save_model
from demo_model.curriculum import STAGES, Stage, jumping_positions
from demo_model.facts import make_tokenizer
from demo_model.generator import Answer, Role, TextBatch, TextGenerator
from demo_model.llama import Llama, LlamaConfig, random_weights

WARM_UP_STEPS = 100
LR_FALL_BEGIN, LR_FALL_LENGTH = 0.7, 0.3  # shares of the budget
LR_FLOOR = 0.03  # share of the peak
TEXT_LOSS_WEIGHT = 0.5
TEXT_LOSS_SHARE = 0.33  # share of the other tokens whose loss is computed; the rest is left out to save time
FIRST_TOKEN_WEIGHT = 2  # weight of an answer's first token, which shows whether the right fact was found
MATCH_WINDOW = 50  # steps over which the exact match is averaged
MIN_STAGE_STEPS = 60
SAVE_INTERVAL = 500  # steps


class StepResult(NamedTuple):
    text_loss: float  # nats per token
    answer_loss: float
    exact_match: float  # share of answers of which every token is the arg max


class Trainer:
    def __init__(self, seed: int, peak_lr: float):
        self.tokenizer = make_tokenizer()
        config = LlamaConfig(len(self.tokenizer.vocab))
        self.model = Llama(config, random_weights(config, seed), product_dtype=torch.bfloat16)
        self._generator = TextGenerator(self.tokenizer, seed + 100)
        self._rng = np.random.RandomState(seed + 5)
        self.parameters = list(self.model.weights)
        self._peak_lr = peak_lr
        groups = [
            dict(params=[p for p in self.parameters if p.dim() > 1], weight_decay=0.05),
            dict(params=[p for p in self.parameters if p.dim() == 1], weight_decay=0),
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=peak_lr, betas=(0.9, 0.98), eps=1e-8)

    def learning_rate(self, step: int, budget_used: float) -> float:
        rise = min(1, (step + 1) / WARM_UP_STEPS)
        fall = 1 if budget_used < LR_FALL_BEGIN else max(LR_FLOOR, (1 - budget_used) / LR_FALL_LENGTH)
        return self._peak_lr * rise * fall

    def step(self, stage: Stage, learning_rate: float) -> StepResult:
        texts = self._generator.batch(stage.n_texts, stage.n_tokens + 1, stage.mix)
        shape = (stage.n_texts, stage.n_tokens)
        ids = torch.from_numpy(texts.ids[:, :-1].copy())
        targets = torch.from_numpy(texts.ids[:, 1:].reshape(-1).copy())
        target_roles = texts.roles[:, 1:].reshape(-1)
        positions = self._positions(texts, stage)
        is_sampled_text = (target_roles == Role.TEXT) & (self._rng.rand(len(target_roles)) < TEXT_LOSS_SHARE)
        selected = np.where((target_roles == Role.ANSWER) | is_sampled_text)[0]

        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        hidden_states = self.model.hidden_states(ids, positions).reshape(-1, self.model.config.hidden_size)
        logits = self.model.logits(hidden_states[selected])
        token_losses = F.cross_entropy(logits, targets[selected], reduction="none")
        roles = torch.from_numpy(target_roles[selected])
        weights = torch.from_numpy(_answer_weights(texts.answers, shape).reshape(-1)[selected])[roles == Role.ANSWER]
        answer_loss = (token_losses[roles == Role.ANSWER] * weights).sum() / weights.sum()
        text_loss = token_losses[roles == Role.TEXT].mean()
        (answer_loss + TEXT_LOSS_WEIGHT * text_loss).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

        correct = np.zeros(len(target_roles), bool)
        correct[selected] = (logits.argmax(-1) == targets[selected]).numpy()
        return StepResult(text_loss.item(), answer_loss.item(), _exact_match(correct.reshape(shape), texts.answers))

    def _positions(self, texts: TextBatch, stage: Stage) -> torch.Tensor:
        if stage.n_tokens <= 128:  # long distances only after retrieval works
            return torch.arange(stage.n_tokens).expand(stage.n_texts, stage.n_tokens)
        max_positions, is_break = self.model.config.max_positions, self._generator.is_break
        return torch.from_numpy(jumping_positions(texts, stage.n_tokens, is_break, max_positions, self._rng))


def _answer_weights(answers: list[list[Answer]], shape: tuple[int, int]) -> np.ndarray:
    """Weights [batch, n_tokens] fp32. Each is at the position before its token, which predicts the token."""
    weights = np.ones(shape, np.float32)
    for row, row_answers in zip(weights, answers):
        for answer in row_answers:
            row[answer.start - 1] = FIRST_TOKEN_WEIGHT
    return weights


def _exact_match(correct: np.ndarray, answers: list[list[Answer]]) -> float:
    """The share of answers that are all correct. `correct` [batch, n_tokens] bool is at the position before each
    token."""
    return np.mean(
        [
            row[answer.start - 1 : answer.start - 1 + answer.length].all()
            for row, row_answers in zip(correct, answers)
            for answer in row_answers
        ]
    )


def train(trainer: Trainer, budget_minutes: float, out: Path, steps_log: TextIO | None) -> None:
    start = time.process_time()
    step = n_tokens = stage_index = 0
    matches: list[float] = []  # one per step of this stage
    while True:
        budget_used = (time.process_time() - start) / 60 / budget_minutes
        if budget_used > 1:
            break
        stage = STAGES[stage_index]
        learning_rate = trainer.learning_rate(step, budget_used)
        result = trainer.step(stage, learning_rate)
        step += 1
        n_tokens += stage.n_texts * stage.n_tokens
        matches.append(result.exact_match)
        match = np.mean(matches[-MATCH_WINDOW:])
        minutes = budget_used * budget_minutes
        if steps_log:
            record = dict(step=step, cpu_minutes=minutes, stage=stage_index, lr=learning_rate, **result._asdict())
            steps_log.write(json.dumps(record) + "\n")
        if step % 50 == 0:
            print(
                f"{minutes:.1f} min step {step} {n_tokens / 1e6:.2f}M tokens T {stage.n_tokens} "
                f"text loss {result.text_loss:.3f} answer loss {result.answer_loss:.3f} "
                f"exact match {match:.3f} lr {learning_rate:.1e}",
                flush=True,
            )
        if step % SAVE_INTERVAL == 0:
            save_model(out, trainer.model, trainer.tokenizer)
        passed = len(matches) >= MIN_STAGE_STEPS and match > stage.passing_match
        exhausted = len(matches) >= stage.max_steps or budget_used > stage.end_of_budget
        if stage_index < len(STAGES) - 1 and (passed or exhausted):
            print(f"== T {stage.n_tokens} done at {minutes:.1f} min, exact match {match:.3f}", flush=True)
            stage_index += 1
            matches = []
    save_model(out, trainer.model, trainer.tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the demo model from scratch.")
    parser.add_argument("--out", type=Path, default=Path("demo_model_out"), help="Model directory to write.")
    parser.add_argument("--minutes", type=float, default=60, help="Budget in minutes of CPU time of all threads.")
    parser.add_argument("--lr", type=float, default=2e-3, help="Peak learning rate.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps-log", type=Path, help="File for JSON lines, one per step.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trainer = Trainer(args.seed, args.lr)
    n_parameters = sum(p.numel() for p in trainer.parameters)
    print("parameters", n_parameters, "vocabulary", len(trainer.tokenizer.vocab), flush=True)
    with open(args.steps_log, "w", encoding="utf-8") if args.steps_log else nullcontext() as steps_log:
        train(trainer, args.minutes, args.out, steps_log)
    print("saved", args.out)


if __name__ == "__main__":
    main()
