"""Random texts: prose with hidden facts, followed by questions about them and their answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple, Sequence

import numpy as np

from demo_model.facts import (
    BOOK_BEGIN,
    BOOK_END,
    CODE_NEEDLES,
    CODE_QUESTIONS,
    DIGITS,
    FULL_FORM,
    N_FORMS,
    NEEDLE_FORM_TOKENS,
    PASSKEY_NEEDLES,
    PASSKEY_QUESTIONS,
    QUESTION_FORM_TOKENS,
    FactKind,
)
from demo_model.prose import NAMES, NATO_WORDS, ORDINALS, write_sentences
from demo_model.tokenizer import BYTE_TO_CHAR, Tokenizer

Range = tuple[int, int]  # inclusive


class Role(IntEnum):
    """The role of a token in the loss. PAYLOAD is the random words or digits of a needle, which cannot be predicted."""

    PAYLOAD, TEXT, ANSWER = range(3)


class Answer(NamedTuple):
    start: int  # index of its first token
    length: int  # tokens, including the final newline
    kind: int  # FactKind


class Text(NamedTuple):
    ids: np.ndarray  # [n] int64, begins with <|begin_of_text|>
    roles: np.ndarray  # [n] int64, Role
    questions_start: int  # index of the first token after the prose
    answers: list[Answer]  # in the order of the questions


class TextBatch(NamedTuple):
    """The fields of Text for `batch` texts of the same length."""

    ids: np.ndarray  # [batch, n]
    roles: np.ndarray  # [batch, n]
    questions_start: list[int]
    answers: list[list[Answer]]


@dataclass(frozen=True)
class TextOptions:
    """Options of one text. None means random."""

    words: Range = (4, 8)  # per passkey
    digits: Range = (4, 6)  # per code
    code_share: float = 0.5  # probability that a fact is a code
    kinds: Sequence[FactKind] | None = None  # kinds of the facts; replaces code_share
    needle_form: int = FULL_FORM
    question_form: int = FULL_FORM
    framed: bool | None = None  # the prose is inside BOOK_BEGIN .. BOOK_END
    space_in_question: bool | None = None  # the space between question and answer belongs to the question
    in_order: bool = False  # questions and ordinals in the order of the needles


@dataclass(frozen=True)
class MixOptions:
    """Options of a batch. In most texts all facts have the full form, and in a share of them one of the short forms."""

    n_facts: Range
    words: Range
    digits: Range
    ladder_share: float  # share of texts with short forms
    needle_form_weights: Sequence[float] = (0.2,) * N_FORMS  # for texts with short forms
    same_form: float = 0.5  # probability that the question has the form of the needle
    space_in_question: float = 0.6  # probability, for long question forms only
    code_shares: Sequence[float] = (0, 0.5, 0.5, 1)  # each text draws one


@dataclass(frozen=True)
class _Fact:
    kind: FactKind
    needle_form: int
    prefix: str
    payload: str
    question: list[int]
    answer: list[int]


@dataclass(frozen=True)
class _Unit:
    """A sentence (payload None), or a needle of prefix, payload and end."""

    prefix: str
    newlines_before: int
    payload: str | None = None
    end: str = "."

    @property
    def is_open(self) -> bool:
        return not self.end


class _Story:
    """The tokens of a text under construction. Text is encoded in spans that end only where the role changes."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.ids = [tokenizer.bos_id]
        self.roles = [Role.TEXT]
        self._pending = ""

    def write(self, text: str) -> None:
        self._pending += text

    def flush(self) -> None:
        self._append(self._pending, Role.TEXT)
        self._pending = ""

    def write_needle(self, prefix: str, payload: str, end: str) -> None:
        self.flush()
        self._append(prefix, Role.TEXT)
        self._append(payload, Role.PAYLOAD)
        self._pending = end

    def _append(self, text: str, role: Role) -> None:
        self.append_ids(self._tokenizer.encode(text), role)

    def append_ids(self, ids: list[int], role: Role) -> None:
        self.ids += ids
        self.roles += [role] * len(ids)


class TextGenerator:
    """Draws texts from its own random state. Their prose is cut from one long text, made from `prose_seed`."""

    def __init__(self, tokenizer: Tokenizer, seed: int = 0, n_sentences: int = 120000, prose_seed: int = 1):
        self._tokenizer = tokenizer
        self._rng = np.random.RandomState(seed)
        self._sentences = write_sentences(n_sentences, prose_seed)
        lengths = [len(tokenizer.encode(" " + sentence)) for sentence in self._sentences]
        self._tokens_before = np.concatenate([[0], np.cumsum(lengths)])  # [n_sentences + 1]
        # [vocab] bool: tokens that end a sentence or a line.
        self.is_break = np.array([token.endswith((".", BYTE_TO_CHAR[ord("\n")])) for token in tokenizer.tokens])

    def text(self, n_tokens: int, n_facts: int, options: TextOptions = TextOptions()) -> Text | None:
        """A text of exactly `n_tokens` tokens with a question for each fact (at least one), or None if they do not
        fit."""
        rng = self._rng
        kinds = options.kinds
        if kinds is None:
            kinds = [FactKind(int(rng.rand() < options.code_share)) for _ in range(n_facts)]
        ordinals = ORDINALS if options.in_order else [ORDINALS[i] for i in rng.permutation(len(ORDINALS))]
        names = [NAMES[i] for i in rng.permutation(len(NAMES))]
        if options.space_in_question is None:
            options = replace(options, space_in_question=rng.rand() < 0.7)
        if options.framed is None:
            options = replace(options, framed=rng.rand() < 0.6)
        facts = [
            self._code(names[i], options) if kind == FactKind.CODE else self._passkey(ordinals[i], options)
            for i, kind in enumerate(kinds)
        ]
        question_order = range(n_facts) if options.in_order else rng.permutation(n_facts)
        n_question_tokens = sum(len(fact.question) + len(fact.answer) for fact in facts)
        needles = self._needles(facts)
        n_spare = n_tokens - n_question_tokens - self._story_overhead(facts, options.framed)
        if n_spare < 0:
            return None
        sentences = self._prose(n_spare + 8 + 2 * n_facts)
        units = self._units(sentences, needles)
        story = self._write_story(units, options.framed)
        self._trim(story, n_tokens - n_question_tokens, options.framed)
        questions_start = len(story.ids)
        answers = []
        for i in question_order:
            story.append_ids(facts[i].question, Role.TEXT)
            answers.append(Answer(len(story.ids), len(facts[i].answer), kinds[i]))
            story.append_ids(facts[i].answer, Role.ANSWER)
        assert len(story.ids) == n_tokens
        return Text(np.array(story.ids), np.array(story.roles), questions_start, answers)

    def batch(self, n_texts: int, n_tokens: int, mix: MixOptions) -> TextBatch:
        texts = [self._mixed_text(n_tokens, mix) for _ in range(n_texts)]
        ids, roles, questions_start, answers = zip(*texts)
        return TextBatch(np.stack(ids), np.stack(roles), list(questions_start), list(answers))

    def _mixed_text(self, n_tokens: int, mix: MixOptions) -> Text:
        rng = self._rng
        full = rng.rand() >= mix.ladder_share
        needle_form = rng.choice(N_FORMS, p=mix.needle_form_weights)
        question_form = needle_form if rng.rand() < mix.same_form else rng.randint(0, N_FORMS)
        if full:
            needle_form = question_form = FULL_FORM
        n_facts = rng.randint(mix.n_facts[0], mix.n_facts[1] + 1)
        fact_tokens = NEEDLE_FORM_TOKENS[needle_form] + QUESTION_FORM_TOKENS[question_form] + sum(mix.words) + 3
        while n_facts > 1 and 14 + n_facts * fact_tokens > n_tokens:
            n_facts -= 1
        options = TextOptions(
            words=mix.words,
            digits=mix.digits,
            code_share=mix.code_shares[rng.randint(len(mix.code_shares))],
            needle_form=needle_form,
            question_form=question_form,
            space_in_question=bool(question_form > 2 and rng.rand() < mix.space_in_question),
        )
        while True:
            text = self.text(n_tokens, n_facts, options)
            if text is not None:
                return text
            n_facts -= 1

    def _passkey(self, ordinal: str, options: TextOptions) -> _Fact:
        rng, encode = self._rng, self._tokenizer.encode
        n_words = rng.randint(options.words[0], options.words[1] + 1)
        words = " ".join(NATO_WORDS[i] for i in rng.permutation(len(NATO_WORDS))[:n_words])
        prefix = PASSKEY_NEEDLES[options.needle_form].format(ordinal)
        question = PASSKEY_QUESTIONS[options.question_form].format(ordinal)
        if options.space_in_question:
            question, answer = encode(question + " "), encode(words + "\n")
        else:
            question, answer = encode(question), encode(" " + words + "\n")
        return _Fact(FactKind.PASSKEY, options.needle_form, prefix, " " + words, question, answer)

    def _code(self, name: str, options: TextOptions) -> _Fact:
        """Bare codes ("Anna4821", asked as "Anna") have no space. For all others, a space ends the question."""
        rng, encode = self._rng, self._tokenizer.encode
        n_digits = rng.randint(options.digits[0], options.digits[1] + 1)
        digits = "".join(DIGITS[i] for i in rng.randint(0, 10, n_digits))
        bare = options.needle_form == 0
        question = CODE_QUESTIONS[options.question_form].format(name)
        if not (bare and options.question_form == 0):
            question += " "
        prefix = CODE_NEEDLES[options.needle_form].format(name)
        payload = digits if bare else " " + digits
        return _Fact(FactKind.CODE, options.needle_form, prefix, payload, encode(question), encode(digits + "\n"))

    def _needles(self, facts: list[_Fact]) -> list[_Unit]:
        """The facts as paragraphs of their own (2 newlines before them), as lines of their own (1), or in paragraphs
        (0)."""
        rng = self._rng
        newlines = [2 - int(style) for style in rng.choice(3, len(facts), p=[0.5, 0.15, 0.35])]
        if facts[0].needle_form < 3 and rng.rand() < 0.8:  # short forms mostly have their own paragraph or line
            newlines = [count or 2 for count in newlines]
        needles = []
        for fact, count in zip(facts, newlines):
            closed = fact.kind == FactKind.CODE or count == 0 or rng.rand() < 0.1
            needles.append(_Unit(fact.prefix, count, fact.payload, "." if closed else ""))
        return needles

    def _story_overhead(self, facts: list[_Fact], framed: bool) -> int:
        """An upper estimate of the tokens of needles, frame and newlines."""
        encode = self._tokenizer.encode
        needle_tokens = sum(len(encode(" " + fact.prefix)) + len(encode(fact.payload)) + 2 for fact in facts)
        return needle_tokens + 1 + (len(encode(BOOK_BEGIN)) + 4 if framed else 1)

    def _prose(self, n_tokens: int) -> list[str]:
        """At least two consecutive sentences with at least `n_tokens` tokens."""
        rng, before = self._rng, self._tokens_before
        first = rng.randint(0, len(self._sentences) - 1)
        if before[first] + n_tokens + 400 > before[-1]:
            first = rng.randint(0, max(1, int(np.searchsorted(before, before[-1] - n_tokens - 500))))
        last = max(first + 2, int(np.searchsorted(before, before[first] + n_tokens)) + 1)
        return self._sentences[first:last]

    def _units(self, sentences: list[str], needles: list[_Unit]) -> list[_Unit]:
        """The sentences in random paragraphs, with the needles between them, but after the first two sentences."""
        rng, n_sentences = self._rng, len(sentences)
        needle_places = np.sort(rng.randint(2, n_sentences + 1, len(needles)))  # number of sentences before each needle
        starts_paragraph = rng.rand(n_sentences + 1) < 0.08
        units, n_placed = [], 0
        for i, sentence in enumerate(sentences):
            while n_placed < len(needles) and needle_places[n_placed] <= i:
                units.append(needles[n_placed])
                n_placed += 1
            units.append(_Unit(sentence, 2 if starts_paragraph[i] else 0))
        return units + needles[n_placed:]

    def _write_story(self, units: list[_Unit], framed: bool) -> _Story:
        story = _Story(self._tokenizer)
        if framed:
            story.write(BOOK_BEGIN)
        starts_line = not framed
        for unit, following in zip(units, [*units[1:], None]):
            lead = "" if starts_line else " "
            if unit.payload is None:
                story.write(lead + unit.prefix)
            else:
                story.write_needle(lead + unit.prefix, unit.payload, unit.end)
            newlines = following.newlines_before if following else 0 if framed else 2
            if unit.is_open:
                newlines = max(newlines, 1 if following else 2)
            story.write("\n" * newlines)
            starts_line = newlines > 0
        if framed:
            story.write(BOOK_END[1:] if starts_line else BOOK_END)
        story.flush()
        return story

    def _trim(self, story: _Story, n_tokens: int, framed: bool) -> None:
        """Shortens the story to `n_tokens`. Removes tokens right after <|begin_of_text|> and BOOK_BEGIN."""
        n_head = 1 + (len(self._tokenizer.encode(BOOK_BEGIN)) if framed else 0)
        n_excess = len(story.ids) - n_tokens
        assert n_excess >= 0, f"{-n_excess} tokens short of {n_tokens}"
        del story.ids[n_head : n_head + n_excess]
        del story.roles[n_head : n_head + n_excess]
