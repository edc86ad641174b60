"""The requests of the load test: prompts, expected answers, and a seeded plan that also says which clients leave."""

from __future__ import annotations

import dataclasses
import random

from serve_client import call

MOST_TOKENS = 64
NAMES = ["Anna", "Boris", "Clara", "David", "Emma", "Felix"]
SHORT_PROMPTS = 12
SESSIONS = 8


@dataclasses.dataclass
class Case:
    """One prompt, and the answer of a server without load."""

    prompt: str | list[int]
    duo: dict
    n_prompt: int = 0
    pieces: list[str] = dataclasses.field(default_factory=list)  # texts of the tokens, at most MOST_TOKENS
    ended: bool = False  # whether the answer ended before MOST_TOKENS

    def expected(self, max_tokens: int) -> tuple[str, str, int]:
        """Text, finish_reason and number of tokens."""
        pieces = self.pieces[:max_tokens]
        stopped = self.ended and max_tokens > len(self.pieces)
        return "".join(pieces), "stop" if stopped else "length", len(pieces)


@dataclasses.dataclass
class Plan:
    """One request of the load. A client may leave after `part` of the body, `wait` seconds or `chunks` of a stream."""

    case: Case
    max_tokens: int
    stream: bool
    session: str = ""
    part: float = 1
    wait: float | None = None
    chunks: int | None = None
    reset: bool = False
    aside: tuple[str, str] | None = None  # method and path of another request, which is sent first

    def leaves(self) -> bool:
        return self.part < 1 or self.wait is not None or self.chunks is not None

    def body(self) -> dict:
        body = {"prompt": self.case.prompt, "max_tokens": self.max_tokens, "temperature": 0, "duo": dict(self.case.duo)}
        if self.session:
            body["duo"]["cache"] = self.session
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


def story(rng: random.Random, n_tokens: int) -> str:
    """Sentences of the kind that the demo model knows, with codes of people. A little longer than n_tokens."""
    nouns = ["horse", "farmer", "cow", "field", "plow", "barn"]
    kinds = ["muddy", "golden", "ripe", "old", "green", "quiet"]
    verbs = ["feeds", "grows", "harvests", "finds"]
    lines = []
    for _ in range(n_tokens // 8 + 8):
        lines.append(f"The {rng.choice(kinds)} {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}.")
    for name in NAMES:
        lines.insert(rng.randrange(len(lines)), f"The secret code of {name} is {rng.randrange(10000, 100000)}.")
    return "\n".join(lines)


def question(name: str) -> str:
    return f"\nWhat is the secret code of {name}?\nAnswer: "


async def make_cases(port: int, documents: list[int], seed: int) -> list[Case]:
    """Questions about shared documents of these lengths and about edited ones, other heads, and short prompts."""

    async def encode(text: str, special: bool) -> list[int]:
        status, answer = await call(port, "POST", "/tokenize", {"content": text, "add_special": special})
        if status != 200:
            raise RuntimeError("/tokenize: %d %s" % (status, answer))
        return answer["tokens"]

    rng = random.Random(seed)
    cases = []
    for i, n_tokens in enumerate(documents):
        text = story(rng, n_tokens)
        ids = (await encode(text, True))[:n_tokens]
        edited = list(ids)
        edited[n_tokens // 2] = ids[0]
        for j, name in enumerate(NAMES[:5]):
            asked = await encode(question(name), False)
            # All cases share a prefix. Some are ids and some are texts. Some stop at the end of text, others continue.
            cases.append(Case(text + question(name) if j == 0 else ids + asked, {"ignore_eos": True} if j % 2 else {}))
        cases.append(Case(edited + asked, {"ignore_eos": True}))
        heads = {"pattern": "none"} if i % 2 else {"sparsity": 0.75, "sink": 8, "recent": 32}
        cases.append(Case(ids + asked, {"ignore_eos": True, **heads}))
    for i in range(SHORT_PROMPTS):
        text = story(rng, 20)[-rng.randrange(60, 400) :] + (question(NAMES[i % len(NAMES)]) if i % 2 else "")
        cases.append(Case(text, {"ignore_eos": True}))
    return cases


async def learn_answers(port: int, cases: list[Case]) -> None:
    """Asks one prompt at a time, and deletes its sequence on the server before the next."""
    for case in cases:
        body = {"prompt": case.prompt, "max_tokens": MOST_TOKENS, "temperature": 0, "logprobs": 0}
        status, answer = await call(port, "POST", "/v1/completions", {**body, "duo": {**case.duo, "cache": "one"}})
        if status != 200:
            raise RuntimeError("reference: %d %s" % (status, answer))
        choice, usage = answer["choices"][0], answer["usage"]
        case.pieces = choice["logprobs"]["tokens"]
        case.ended = choice["finish_reason"] == "stop"
        case.n_prompt = usage["prompt_tokens"]
        if "".join(case.pieces) != choice["text"] or usage["prompt_tokens_details"]["cached_tokens"] != 0:
            raise RuntimeError("reference: tokens and text disagree, or something was cached: %s" % answer)
        status, answer = await call(port, "DELETE", "/v1/sessions/one")
        if status != 200:
            raise RuntimeError("reference: %d %s" % (status, answer))


def make_plans(cases: list[Case], n_requests: int, seed: int) -> list[Plan]:
    """Draws the requests of the load test. The same seed gives the same requests."""
    rng = random.Random(seed + 1)
    asides = [("GET", "/v1/status"), ("GET", "/metrics"), ("GET", "/v1/sessions"), ("GET", "/health")]
    asides += [("DELETE", f"/v1/sessions/load-{i}") for i in range(SESSIONS)]
    plans = []
    for _ in range(n_requests):
        case = rng.choice(cases)
        plan = Plan(case, max_tokens=round(MOST_TOKENS ** rng.random()), stream=rng.random() < 0.6)
        own_heads = "pattern" in case.duo or "sparsity" in case.duo
        if not own_heads and rng.random() < 0.2:
            plan.session = f"load-{rng.randrange(SESSIONS)}"
        if rng.random() < 1 / 3:
            how = rng.random()
            if how < 0.1:
                plan.part = rng.random() * 0.99
            elif plan.stream and how < 0.6:
                plan.chunks = rng.randrange(plan.max_tokens + 1)
            else:
                plan.wait = rng.expovariate(10)
            plan.reset = rng.random() < 0.5
        if rng.random() < 0.08:
            plan.aside = rng.choice(asides)
        plans.append(plan)
    return plans
