"""The curriculum of the demo model: which texts it is trained on, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo_model.generator import MixOptions, TextBatch

# Shares of the five forms of a needle, from bare to full.
MOSTLY_BARE = (0.45, 0.2, 0.1, 0.1, 0.15)
EVEN = (0.2,) * 5
# Shares of codes among the facts. Each text draws one of them.
MOSTLY_PASSKEYS = (0, 0, 0.5, 1)
MOSTLY_CODES = (0.5, 1, 1)
BOTH = (0, 0.5, 0.5, 1)

NEVER = 2.0  # an exact match that cannot be reached
UNLIMITED = 10**9


@dataclass(frozen=True)
class Stage:
    """A stage ends at `passing_match`, at `max_steps` or at `end_of_budget`, whichever comes first."""

    n_tokens: int  # per text
    n_texts: int  # per step
    passing_match: float  # mean exact match of the last steps
    max_steps: int
    end_of_budget: float  # share of the time budget
    mix: MixOptions


def _long_mix(ladder_share: float, space_in_question: float) -> MixOptions:
    return MixOptions(
        n_facts=(4, 10),
        words=(4, 8),
        digits=(4, 6),
        ladder_share=ladder_share,
        needle_form_weights=EVEN,
        same_form=0.5,
        space_in_question=space_in_question,
        code_shares=BOTH,
    )


PASSKEYS_FIRST = MixOptions(
    n_facts=(3, 10),
    words=(2, 4),
    digits=(2, 4),
    ladder_share=0.85,
    needle_form_weights=(0.35, 0.2, 0.15, 0.1, 0.2),
    same_form=0.85,
    space_in_question=0,
    code_shares=MOSTLY_PASSKEYS,
)
CODES_NEXT = MixOptions(
    n_facts=(3, 10),
    words=(2, 4),
    digits=(2, 4),
    ladder_share=0.9,
    needle_form_weights=MOSTLY_BARE,
    same_form=0.9,
    space_in_question=0.3,
    code_shares=MOSTLY_CODES,
)
BOTH_KINDS = MixOptions(
    n_facts=(4, 12),
    words=(2, 5),
    digits=(2, 4),
    ladder_share=0.6,
    needle_form_weights=EVEN,
    same_form=0.6,
    space_in_question=0.4,
    code_shares=BOTH,
)
STAGES = [
    Stage(128, 64, 0.80, 900, 0.20, PASSKEYS_FIRST),
    Stage(128, 64, 0.88, 700, 0.33, CODES_NEXT),
    Stage(256, 32, 0.90, 1500, 0.47, BOTH_KINDS),
    Stage(512, 16, 0.94, 1200, 0.60, _long_mix(0.3, 0.6)),
    Stage(1024, 8, 0.95, 700, 0.73, _long_mix(0.25, 0.65)),
    Stage(2048, 4, 0.95, 600, 0.84, _long_mix(0.25, 0.65)),
    Stage(4096, 2, NEVER, UNLIMITED, 1.0, _long_mix(0.2, 0.65)),
]


def jumping_positions(
    texts: TextBatch, n_tokens: int, is_break: np.ndarray, max_positions: int, rng: np.random.RandomState
) -> np.ndarray:
    """Positions [batch, n_tokens], below `max_positions`. Half of the texts get one to four jumps forward, so that a
    short text teaches large distances. The jumps are after tokens of the prose for which `is_break` [vocab] is set."""
    positions = np.tile(np.arange(n_tokens), (len(texts.ids), 1))
    for row, ids, questions_start in zip(positions, texts.ids, texts.questions_start):
        if rng.rand() >= 0.5:
            continue
        total = int((max_positions - n_tokens) * rng.rand() ** 2)
        places = np.where(is_break[ids[:questions_start]])[0] + 1
        if len(places) == 0:
            continue
        chosen = rng.choice(places, min(len(places), rng.randint(1, 5)), replace=False)
        shares = rng.dirichlet(np.ones(len(chosen) + 1))  # the last share of `total` is not used
        for place, share in zip(chosen, shares):
            row[place:] += int(share * total)
    return positions
