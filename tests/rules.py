"""What the rule tests share: the source tree, the rooms and their order, and how a test reports."""

import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Lowest first (ARCHITECTURE.md). Rooms of one level do not see each other.
LEVELS = [
    ["base"],
    ["checkpoint", "text", "heads", "kernels"],
    ["backend"],
    ["kv"],
    ["attention"],
    ["model"],
    ["engine"],
    ["identify", "eval"],
    ["server"],
    ["cli"],
]
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# The room that implements each public header.
PUBLIC_HEADER_ROOM = {
    "result": "base",
    "version": "base",
    "progress": "base",
    "dtype": "base",
    "tokenizer": "text",
    "head_pattern": "heads",
    "backend": "backend",
    "model": "model",
    "session": "engine",
    "sampler": "engine",
    "generate": "engine",
    "identify": "identify",
}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def allowed_rooms(room):
    """Rooms that `room` may include and link: itself and those of lower levels; kernels sees base alone."""
    if room == "kernels":
        return {"kernels", "base"}
    return {room} | {other for other, level in LEVEL_OF.items() if level < LEVEL_OF[room]}


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def files(root, folders, suffixes):
    """Paths relative to root of the files below the folders whose names end in one of the suffixes, sorted."""
    found = []
    for folder in folders:
        for directory, subdirectories, names in os.walk(os.path.join(root, folder)):
            subdirectories[:] = [d for d in subdirectories if d not in ("__pycache__", "build")]
            for name in names:
                if name.endswith(tuple(suffixes)):
                    found.append(os.path.relpath(os.path.join(directory, name), root))
    return sorted(found)


def write_tree(root, tree):
    """Writes {relative path: text} below root: the small bad examples that the rule tests try themselves on."""
    for path, text in tree.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)


def finish(problems, what):
    """Prints the problems and ends the test."""
    for problem in problems:
        print(problem)
    if problems:
        print(f"FAILED: {len(problems)} problem(s) in {what}")
        sys.exit(1)
    print(f"ok: {what}")
