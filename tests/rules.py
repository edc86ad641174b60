"""Shared code of the rule tests: the source tree, the rooms and their order, and how a test reports."""

import os
import re
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Rooms by level, the lowest first (ARCHITECTURE.md). Rooms of one level may not include each other.
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
    "head_report": "heads",
    "backend": "backend",
    "model": "model",
    "key_outliers": "model",
    "quantize": "model",
    "session": "engine",
    "sampler": "engine",
    "generate": "engine",
    "chat_turn": "engine",
}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def allowed_rooms(room):
    """The rooms that `room` may include and link: itself and lower rooms. kernels may use only base."""
    if room == "kernels":
        return {"kernels", "base"}
    return {room} | {other for other, level in LEVEL_OF.items() if level < LEVEL_OF[room]}


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def files(root, folders, suffixes):
    """Sorted paths, relative to root, of the files in the folders whose names end in one of the suffixes."""
    found = []
    for folder in folders:
        for directory, subdirectories, names in os.walk(os.path.join(root, folder)):
            subdirectories[:] = [d for d in subdirectories if d not in ("__pycache__", "build")]
            for name in names:
                if name.endswith(tuple(suffixes)):
                    found.append(os.path.relpath(os.path.join(directory, name), root))
    return sorted(found)


def write_tree(root, tree):
    """Writes the files {relative path: text} below root. The rule tests test themselves on such small trees."""
    for path, text in tree.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(text)


def tell_apart(check, bad, good):
    """Asserts that check(root) has a problem with each file of the tree `bad`, and none with the tree `good`."""
    with tempfile.TemporaryDirectory() as root:
        write_tree(root, bad)
        problems = check(root)
        missed = [path for path in bad if not any(p.startswith(path.replace("/", os.sep) + ":") for p in problems)]
        assert not missed, missed
    with tempfile.TemporaryDirectory() as root:
        write_tree(root, good)
        assert not check(root), check(root)


def finish(problems, what):
    """Prints the problems and ends the test."""
    for problem in problems:
        print(problem)
    if problems:
        print(f"FAILED: {len(problems)} problem(s) in {what}")
        sys.exit(1)
    print(f"ok: {what}")
