"""The demo model's byte-level BPE tokenizer: training, encoding, decoding and tokenizer.json."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Iterable

# Qwen2's split expression. It is that of Llama 3, except that every digit is a piece of its own.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The same expression over ASCII, for `re`, which has no \p classes.
_ASCII_SPLIT = re.compile(
    r"(?:'[sStTmMdD]|'[rR][eE]|'[vV][eE]|'[lL][lL])|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]"
    r"| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    re.ASCII,
)
_WIDE_SPACES = set("\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(code) for code in range(0x2000, 0x200B)}

BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
SPECIALS = (BEGIN_OF_TEXT, END_OF_TEXT)
_SPECIALS_SPLIT = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")
_NO_RANK = 1 << 30

Pair = tuple[str, str]


def _ascii_stand_in(char: str) -> str:
    """An ASCII character of the same class (letter, number, space, other) as `char`."""
    if char.isascii():
        return char
    if char in _WIDE_SPACES:
        return "\v"
    return {"L": "z", "N": "0"}.get(unicodedata.category(char)[0], "!")


def split_pieces(text: str) -> list[str]:
    """Splits exactly as the Split pre-tokenizer with SPLIT_PATTERN does."""
    if text.isascii():
        return _ASCII_SPLIT.findall(text)
    stand_in = "".join(map(_ascii_stand_in, text))
    return [text[match.start() : match.end()] for match in _ASCII_SPLIT.finditer(stand_in)]


def _byte_to_char() -> dict[int, str]:
    """GPT-2's table: every byte as a printable Unicode character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_TO_CHAR = _byte_to_char()
_CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def _symbols(piece: str) -> list[str]:
    return [BYTE_TO_CHAR[byte] for byte in piece.encode()]


def _merge_in_place(symbols: list[str], pair: Pair) -> None:
    i = 0
    while i < len(symbols) - 1:
        if symbols[i] == pair[0] and symbols[i + 1] == pair[1]:
            symbols[i : i + 2] = [pair[0] + pair[1]]
        i += 1


def train_bpe(piece_counts: Counter[str], n_merges: int) -> list[Pair]:
    """Up to `n_merges` merges. Each merges the pair that is most frequent at that point (ties: the larger pair)."""
    words = [(_symbols(piece), count) for piece, count in sorted(piece_counts.items())]
    merges: list[Pair] = []
    while len(merges) < n_merges:
        pair_counts: Counter[Pair] = Counter()
        for symbols, count in words:
            for pair in zip(symbols, symbols[1:]):
                pair_counts[pair] += count
        if not pair_counts:
            break
        best = max(pair_counts.items(), key=lambda item: (item[1], item[0]))[0]
        merges.append(best)
        for symbols, _ in words:
            _merge_in_place(symbols, best)
    return merges


class Tokenizer:
    """Token ids are the 256 bytes, then one per merge, then the special tokens. `encode` adds no special token."""

    def __init__(self, merges: Iterable[Pair]):
        self.merges = list(merges)
        self._rank = {pair: i for i, pair in enumerate(self.merges)}
        self.vocab: dict[str, int] = {}
        for token in sorted(BYTE_TO_CHAR.values(), key=ord):
            self.vocab[token] = len(self.vocab)
        for left, right in self.merges:
            self.vocab.setdefault(left + right, len(self.vocab))
        for special in SPECIALS:
            self.vocab[special] = len(self.vocab)
        self.tokens = list(self.vocab)
        self.bos_id, self.eos_id = (self.vocab[special] for special in SPECIALS)
        self._piece_cache: dict[str, list[int]] = {}

    def _encode_piece(self, piece: str) -> list[int]:
        ids = self._piece_cache.get(piece)
        if ids is None:
            symbols = _symbols(piece)
            while len(symbols) > 1:
                rank, i = min((self._rank.get(pair, _NO_RANK), i) for i, pair in enumerate(zip(symbols, symbols[1:])))
                if rank == _NO_RANK:
                    break
                symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
            ids = self._piece_cache[piece] = [self.vocab[symbol] for symbol in symbols]
        return ids

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for segment in _SPECIALS_SPLIT.split(text):
            if segment in SPECIALS:
                ids.append(self.vocab[segment])
            else:
                for piece in split_pieces(segment):
                    ids += self._encode_piece(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        data = b""
        for token in (self.tokens[int(i)] for i in ids):
            data += token.encode() if token in SPECIALS else bytes(_CHAR_TO_BYTE[char] for char in token)
        return data.decode("utf-8", "replace")

    def save(self, path: Path) -> None:
        """Writes tokenizer.json in the format of the Hugging Face tokenizers library."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self._as_json(), file, ensure_ascii=False, indent=1)

    @staticmethod
    def load(path: Path) -> Tokenizer:
        """Reads a file that `save` wrote. It cannot read other tokenizer.json files, because it uses only the
        merges."""
        with open(path, encoding="utf-8") as file:
            merges = json.load(file)["model"]["merges"]
        return Tokenizer((left, right) for left, right in (merge.split(" ") for merge in merges))

    def _as_json(self) -> dict:
        flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [dict(id=self.vocab[special], content=special, **flags) for special in SPECIALS],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
                ],
            },
            "post_processor": self._post_processor(),
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: i for token, i in self.vocab.items() if token not in SPECIALS},
                "merges": [" ".join(pair) for pair in self.merges],
            },
        }

    def _post_processor(self) -> dict:
        """The template that puts <|begin_of_text|> before every text."""

        def begin(type_id: int) -> dict:
            return {"SpecialToken": {"id": BEGIN_OF_TEXT, "type_id": type_id}}

        def sequence(name: str, type_id: int) -> dict:
            return {"Sequence": {"id": name, "type_id": type_id}}

        return {
            "type": "TemplateProcessing",
            "single": [begin(0), sequence("A", 0)],
            "pair": [begin(0), sequence("A", 0), begin(1), sequence("B", 1)],
            "special_tokens": {BEGIN_OF_TEXT: {"id": BEGIN_OF_TEXT, "ids": [self.bos_id], "tokens": [BEGIN_OF_TEXT]}},
        }
