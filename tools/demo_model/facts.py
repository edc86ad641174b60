"""The wording of hidden facts (needles) and of questions about them, and the corpus of the tokenizer."""

from __future__ import annotations

import random
from collections import Counter
from enum import IntEnum

from demo_model.prose import COMMON_NAMES, NATO_WORDS, ORDINALS, TOPICS, plural, write_sentences
from demo_model.tokenizer import SPECIALS, Tokenizer, split_pieces, train_bpe


class FactKind(IntEnum):
    """A PASSKEY has an ordinal and words of the NATO alphabet. A CODE has a first name and digits."""

    PASSKEY, CODE = range(2)


# Every kind has five forms, from the bare key to the full sentence. The short forms are a ladder: they need only plain
# induction, from which the retrieval circuit develops. Without them the model learns to copy some fact, and training
# stops improving before the model copies the right one.
PASSKEY_NEEDLES = [
    "{}",
    "{}:",
    "{} passkey:",
    "the {} passkey to the vault:",
    "Remember this sequence of words, it's the {} passkey to the vault:",
]
PASSKEY_QUESTIONS = [
    "{}",
    "{}:",
    "{} passkey:",
    "what is the {} passkey to the vault?\nPasskey:",
    "Based on the content of the book, what is the {} passkey to the vault?\nPasskey:",
]
CODE_NEEDLES = ["{}", "{}:", "code of {}:", "secret code of {} is", "The secret code of {} is"]
CODE_QUESTIONS = [
    "{}",
    "{}:",
    "code of {}:",
    "the secret code of {}?\nAnswer:",
    "What is the secret code of {}?\nAnswer:",
]
N_FORMS = 5
FULL_FORM = N_FORMS - 1
# The approximate number of tokens of each form without its key.
NEEDLE_FORM_TOKENS = (1, 2, 3, 8, 16)
QUESTION_FORM_TOKENS = (2, 3, 4, 11, 21)
DIGITS = "0123456789"

BOOK_BEGIN = "This is a very long story book: <book>"
BOOK_END = " </book>.\n\n"


def _fact_texts(rng: random.Random) -> list[str]:
    """One passkey and one code in every context that the generator may give them."""
    ordinal = rng.choice(ORDINALS)
    words = " ".join(rng.sample(NATO_WORDS, 6))
    name = rng.choice(COMMON_NAMES)
    digits = "".join(rng.choice(DIGITS) for _ in range(5))
    passkey_needle = PASSKEY_NEEDLES[FULL_FORM].format(ordinal)
    passkey_question = PASSKEY_QUESTIONS[FULL_FORM].format(ordinal)
    code_needle = CODE_NEEDLES[FULL_FORM].format(name)
    code_question = CODE_QUESTIONS[FULL_FORM].format(name)
    return [
        f"{passkey_needle} {words}\n\n{code_needle} {digits}.\n\n",
        f"A word. {passkey_needle} {words}. {code_needle} {digits}.\n",
        f"{BOOK_BEGIN} A{BOOK_END}{passkey_question} ",
        f"{words}\n",
        f"{code_question} ",
        f"{digits}\n",
        f"And {passkey_question[0].lower()}{passkey_question[1:]} {code_question}",
    ]


def corpus_piece_counts() -> Counter[str]:
    """Counts of the pre-tokenizer pieces of prose, facts, questions, answers and word lists. The word lists make the
    usual words single tokens, with and without a leading space."""
    sentences = write_sentences(6000, seed=99)
    texts = [" ".join(sentences), "\n\n".join(sentences[:2500])]
    rng = random.Random(5)
    for _ in range(1500):
        texts += _fact_texts(rng)
    template_words = "Remember Based What The A An passkey Passkey Answer code secret vault book story words sequence"
    for word in ORDINALS + NATO_WORDS + COMMON_NAMES + template_words.split():
        texts += [f"\n{word}\n {word}."] * 60
    for nouns, verbs, adjectives in TOPICS:
        for noun in nouns:
            texts += [" " + plural(noun)] * 10 + [noun] * 15
        for word in verbs + adjectives:
            texts += [word, word[:-1]] * 3
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_pieces(text))
    return counts


def make_tokenizer(vocab_size: int = 1024) -> Tokenizer:
    return Tokenizer(train_bpe(corpus_piece_counts(), vocab_size - 256 - len(SPECIALS)))
