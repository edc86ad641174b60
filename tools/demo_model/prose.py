"""Simple English prose from a small grammar, and its words."""

from __future__ import annotations

import random
from enum import IntEnum
from typing import Sequence

NATO_WORDS = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo "
    "sierra tango uniform victor whiskey xray yankee zulu"
).split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
COMMON_NAMES = (
    "Anna Boris Clara David Elena Felix Maria Peter Rosa Hugo Nina Karl Laura Simon Julia Thomas Emma Paul Sara Martin "
    "Lucy Frank Helen Jack Alice Bruno Diana Erik Fiona Georg Ida Jonas Katya Leon Mona Nils"
).split()
# These are not in the tokenizer's corpus, so each takes several tokens.
RARE_NAMES = (
    "Olga Rufus Sven Tilda Ursula Viktor Wanda Yusuf Zelda Isolde Quentin Priscilla Bartholomew Xanthe"
).split()
NAMES = COMMON_NAMES + RARE_NAMES

TOPICS = [  # nouns, verbs, adjectives
    ("sailor ship harbor wave gull captain", "sails drifts anchors", "salty stormy blue"),
    ("farmer cow barn field horse plow", "grows feeds harvests", "muddy golden ripe"),
    ("merchant street market tower clerk lamp", "trades builds climbs", "busy narrow loud"),
    ("hunter wolf oak river fox trail", "hunts howls hides", "dark green wild"),
    ("soldier king sword castle knight banner", "fights guards rides", "brave iron royal"),
    ("mother child kitchen fire cat bread", "cooks sleeps sings", "warm small quiet"),
]
TOPICS = [tuple(words.split() for words in topic) for topic in TOPICS]
_IRREGULAR_PLURALS = {"child": "children", "wolf": "wolves", "fox": "foxes"}
_PREPOSITIONS = ("near", "with", "under", "beside")
_ADVERBS = ("slowly", "again", "often", "never")
_CONJUNCTIONS = ("and", "but", "then")


class Person(IntEnum):
    """The person that a later pronoun agrees with. Indexes _OWNERS and _PRONOUNS."""

    SHE, HE, THING, MANY = range(4)


_OWNERS = ("her", "his", "the", "their")
_PRONOUNS = ("she", "he", "the", "they")
# The people of the prose are the first eight names. The pronouns of Maria and Peter are swapped. They must
# stay so, because a training run must be repeatable bit for bit.
_PEOPLE = list(
    zip(COMMON_NAMES, [Person.SHE, Person.HE, Person.SHE, Person.HE, Person.SHE, Person.HE, Person.HE, Person.SHE])
)


def plural(noun: str) -> str:
    return _IRREGULAR_PLURALS.get(noun, noun + "s")


class _SentenceWriter:
    """Writes sentences. Topics drift, verbs fit their objects, and pronouns agree with the subject."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self._topic = 0

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _index(self, n_choices: int) -> int:
        return int(self._random.random() * n_choices)

    def _pick(self, words: Sequence):
        return words[self._index(len(words))]

    def sentence(self) -> str:
        if self._chance(0.12):
            self._topic = self._index(len(TOPICS))
        nouns, verbs, adjectives = TOPICS[self._topic]
        words, person, subject = self._subject(nouns, adjectives)
        if self._chance(0.35):
            words += [self._pick(_PREPOSITIONS), "the", self._pick(nouns)]
        if self._chance(0.25):
            words.append(self._pick(_ADVERBS))
        verb_index = self._index(len(verbs))
        words.append(_conjugate(verbs[verb_index], person))
        if self._chance(0.7):
            words.append(_OWNERS[person])
            if self._chance(0.5):
                words.append(adjectives[verb_index])
            words.append(nouns[(verb_index * 2 + self._index(2)) % len(nouns)])
        if self._chance(0.35):
            words[-1] += ","
            words += [self._pick(_CONJUNCTIONS), _PRONOUNS[person]]
            if person == Person.THING:
                words.append(subject)
            words.append(_conjugate(self._pick(verbs), person))
        return " ".join(words) + "."

    def _subject(self, nouns: list[str], adjectives: list[str]) -> tuple[list[str], Person, str]:
        """The words of the subject, the person that pronouns agree with, and the subject's noun or name."""
        kind = self._random.random()
        if kind < 0.25:
            name, person = self._pick(_PEOPLE)
            return [name], person, name
        if kind < 0.65:
            definite = self._chance(0.7)
            words = [self._pick(adjectives)] if self._chance(0.4) else []
            noun = self._pick(nouns)
            words.append(noun)
            article = "The" if definite else "An" if words[0][0] in "aeiou" else "A"
            return [article, *words], Person.THING, noun
        words = ["The"]
        if self._chance(0.4):
            words.append(self._pick(adjectives))
        noun = self._pick(nouns)
        return [*words, plural(noun)], Person.MANY, noun


def _conjugate(verb: str, person: Person) -> str:
    return verb[:-1] if person == Person.MANY else verb


def write_sentences(n_sentences: int, seed: int) -> list[str]:
    writer = _SentenceWriter(seed)
    return [writer.sentence() for _ in range(n_sentences)]
