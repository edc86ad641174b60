"""A file of more than 400 lines is a warning, of more than 800 a failure. Tables of data are exempt by name."""

import os
import tempfile

import rules

SOFT_LIMIT = 400
HARD_LIMIT = 800
FOLDERS = ["include", "src", "tests", "fuzz", "bench", "tools", "cmake", "scripts", ".ci"]
SUFFIXES = [".h", ".cc", ".cu", ".cuh", ".py", ".cmake", ".txt", ""]


def is_source(path):
    name = os.path.basename(path)
    stem, suffix = os.path.splitext(name)
    if stem.endswith("_tables"):
        return False
    return suffix in (".h", ".cc", ".cu", ".cuh", ".py", ".cmake") or name == "CMakeLists.txt" or (
        suffix == "" and path.split(os.sep)[0] in ("scripts", ".ci"))


def check(root):
    problems = []
    warnings = []
    for path in rules.files(root, FOLDERS, SUFFIXES):
        if not is_source(path):
            continue
        n_lines = rules.read(os.path.join(root, path)).count("\n")
        if n_lines > HARD_LIMIT:
            problems.append(f"{path}: {n_lines} lines, at most {HARD_LIMIT}; split it by idea")
        elif n_lines > SOFT_LIMIT:
            warnings.append(f"warning: {path}: {n_lines} lines, better at most {SOFT_LIMIT}")
    return problems, warnings


def self_test():
    with tempfile.TemporaryDirectory() as root:
        rules.write_tree(root, {
            "src/a/good.cc": "x\n" * SOFT_LIMIT,
            "src/a/long.cc": "x\n" * HARD_LIMIT,
            "src/a/too_long.h": "x\n" * (HARD_LIMIT + 1),
            "src/a/unicode_tables.cc": "x\n" * 5000,
            "scripts/run": "x\n" * (HARD_LIMIT + 1),
        })
        problems, warnings = check(root)
        assert len(problems) == 2 and "too_long.h" in problems[1] + problems[0], problems
        assert len(warnings) == 1 and "long.cc" in warnings[0], warnings


if __name__ == "__main__":
    self_test()
    found, soft = check(rules.ROOT)
    print("\n".join(soft))
    rules.finish(found, "file lengths")
