#!/usr/bin/env python3
"""Compares head patterns by the answers that a model still finds with them. Prints docs/identification.md's tables.

    tools/compare_patterns.py --duo build/release/bin/duo NAME=DIR... [--model demo] [--tokens 2048,8192] [--texts 10]
        [--facts 8] [--shares 100,75,50,37.5,25,12.5,0] [--random 5]

A cell is the share of facts found over the texts by `duo demo`, which uses the code that serves requests. The columns
are shares of retrieval heads, which are chosen one by one and then by whole layers. There are rows for the given
patterns, for each pattern with its order reversed, and for the mean of random choices. The output is Markdown. It needs
only Python and the program.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path


def run(args: list[str]) -> str:
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(args)}: {done.stderr}")
    return done.stdout


class Comparison:
    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options = options
        self.folder = folder
        self.known: dict[tuple[bytes, int], float] = {}  # many patterns give the same choice

    def gates_of(self, directory: str) -> list[list[float]]:
        return json.loads(run([self.options.duo, "pattern", "show", directory, "--json"]))["gates"]

    def write(self, name: str, like: str, gates: list[list[float]]) -> str:
        """Writes a pattern with these gates and the windows of `like`."""
        shown = json.loads(run([self.options.duo, "pattern", "show", like, "--json"]))
        directory = self.folder / name
        directory.mkdir()
        rows = ["\t".join(f"{gate:.18e}" for gate in row) for row in gates]
        (directory / "full_attention_heads.tsv").write_text("\n".join(rows) + "\n")
        config = {"sink_size": shown["sink"], "recent_size": shown["recent"]}
        (directory / "config.json").write_text(json.dumps(config))
        return str(directory)

    def choose(self, directory: str, share: float, how: list[str]) -> str:
        """Writes the choice of heads as a pattern of zeros and ones."""
        out = Path(tempfile.mkdtemp(dir=self.folder))
        sparsity = f"{1 - share / 100:.6f}"
        run([self.options.duo, "pattern", "choose", directory, "--sparsity", sparsity, *how,
             "--out", str(out)])  # fmt: skip
        return str(out)

    def found(self, pattern: str, tokens: int, texts: range) -> float:
        """The share of the facts that are found with the heads of this 0/1 pattern."""
        files = [Path(pattern) / name for name in ("full_attention_heads.tsv", "config.json")]
        key = (b"".join(file.read_bytes() for file in files), tokens)
        if key in self.known:
            return self.known[key]
        hits = 0
        for seed in texts:
            report = json.loads(run([self.options.duo, "demo", "--model", self.options.model, "--pattern", pattern,
                                     "--threshold", "0.5", "--tokens", str(tokens), "--facts", str(self.options.facts),
                                     "--seed", str(seed), "--json"]))  # fmt: skip
            hits += report["modes"]["duo"]["hits"]
        self.known[key] = hits / (len(texts) * self.options.facts)
        return self.known[key]

    def row(self, directory: str, tokens: int, texts: range, how: list[str]) -> list[float]:
        return [self.found(self.choose(directory, share, how), tokens, texts) for share in self.options.shares]


def print_row(tokens: int, name: str, cells: list[float]) -> None:
    print(f"| {tokens} | {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--duo", default="build/release/bin/duo", help="The duo program.")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tokens", default="2048,8192", help="Lengths of the texts in tokens.")
    parser.add_argument("--texts", type=int, default=10, help="Texts per cell.")
    parser.add_argument("--facts", type=int, default=8, help="Facts per text.")
    parser.add_argument("--shares", default="100,75,50,37.5,25,12.5,0", help="Shares of retrieval heads in per cent.")
    parser.add_argument("--random", type=int, default=5, help="Number of random choices.")
    options = parser.parse_args()
    options.shares = [float(share) for share in options.shares.split(",")]
    named = [item.partition("=") for item in options.patterns]
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(options, Path(folder))
        first = named[0][2]
        inverted, drawn = {}, []
        for name, _, directory in named:
            gates = comparison.gates_of(directory)
            inverted[name] = comparison.write(f"inverted_{name}", directory, [[1 - g for g in row] for row in gates])
        for seed in range(options.random):
            rng = random.Random(seed)
            gates = [[rng.random() for _ in row] for row in comparison.gates_of(first)]
            drawn.append(comparison.write(f"random_{seed}", first, gates))
        texts = range(1, options.texts + 1)
        for title, how in (("heads", []), ("layers", ["--exclusive-layers"])):
            print(f"\n| tokens | {title} by | " + " | ".join(f"{share:g} %" for share in options.shares) + " |")
            print("|---" * (len(options.shares) + 2) + "|")
            for tokens in map(int, options.tokens.split(",")):
                for name, _, directory in named:
                    print_row(tokens, name, comparison.row(directory, tokens, texts, how))
                    print_row(tokens, f"{name}, inverted", comparison.row(inverted[name], tokens, texts, how))
                rows = [comparison.row(directory, tokens, texts, how) for directory in drawn]
                if rows:
                    means = [sum(column) / len(rows) for column in zip(*rows)]
                    print_row(tokens, f"random, mean of {len(rows)}", means)


if __name__ == "__main__":
    main()
