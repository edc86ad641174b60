"""DUO_ISA: every instruction set of this CPU passes the tests. One that the CPU lacks, or an unknown one, is an error.

usage: forced_isa_test.py DUO_BINARY TEST_BINARY...
"""

import json
import os
import subprocess
import sys
import tempfile

import rules

# The CPU flags of each level, by the Linux kernel's names. A level also needs those of the levels before it.
NEEDED_FLAGS = {
    "portable": [],
    "avx2": ["avx2", "fma", "f16c"],
    "avx512": ["avx512f", "avx512bw", "avx512vl", "avx512dq"],
    "avx512_vnni": ["avx512_vnni"],
    "avx512_bf16": ["avx512_bf16"],
}
QUESTION = "The secret code of Anna is 48213.\n\nBased on the content of the book, what is the secret code of Anna?\nAnswer: "


def run(command, isa):
    return subprocess.run(command, env={**os.environ, "DUO_ISA": isa}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False)


def supported_levels():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        lines = [line for line in f if line.startswith("flags")]
    flags = set(lines[0].split()) if lines else set()
    levels = []
    for level, needed in NEEDED_FLAGS.items():
        if not flags.issuperset(needed):
            break
        levels.append(level)
    return levels


def check_tests(binaries, levels):
    problems = []
    for level in levels:
        for binary in binaries:
            result = run([binary, "--gtest_brief=1"], level)
            print(f"DUO_ISA={level} {os.path.basename(binary)}: exit {result.returncode}")
            if result.returncode != 0:
                problems.append(f"{binary} fails with DUO_ISA={level}:\n{result.stdout[-3000:]}")
    return problems


def check_errors(duo, levels):
    generate = [duo, "generate", "--model", os.path.join(rules.ROOT, "models", "demo"), "--prompt", QUESTION,
                "--max-tokens", "8", "--threads", "1"]
    problems = []
    for level in NEEDED_FLAGS:
        result = run(generate, level)
        if level in levels and (result.returncode != 0 or "48213" not in result.stdout):
            problems.append(f"DUO_ISA={level}: exit {result.returncode}, expected 0 and the answer:\n{result.stdout}")
        if level not in levels and (result.returncode != 1 or level not in result.stdout):
            problems.append(f"DUO_ISA={level}, which this CPU lacks: exit {result.returncode}, expected 1 and a "
                            f"sentence that names it:\n{result.stdout}")
    result = run(generate, "bogus")
    if result.returncode != 2 or "bogus" not in result.stdout:
        problems.append(f"DUO_ISA=bogus: exit {result.returncode}, expected 2 and a sentence that names it:\n{result.stdout}")
    return problems


def check_quantize(duo, levels):
    """The codes and the report of a quantised checkpoint are the same at every level, and a wrong DUO_ISA is
    refused."""
    problems, reports = [], {}
    for level in [*NEEDED_FLAGS, "bogus"]:
        with tempfile.TemporaryDirectory() as out:
            result = run([duo, "quantize", "--model", os.path.join(rules.ROOT, "models", "demo"), "--weights", "int4",
                          "--out", os.path.join(out, "model"), "--threads", "1", "--json"], level)
        expected = 0 if level in levels else 2 if level == "bogus" else 1
        if result.returncode != expected or (expected != 0 and level not in result.stdout):
            problems.append(f"DUO_ISA={level} duo quantize: exit {result.returncode}, expected {expected}:\n{result.stdout}")
        elif expected == 0:
            reports[level] = json.loads(result.stdout)["matrices"]
    different = [level for level in reports if reports[level] != reports[levels[0]]]
    return problems + [f"duo quantize reports other errors with DUO_ISA={level}" for level in different]


def self_test():
    assert check_tests(["/bin/false"], ["portable"]), "a failing test binary goes unnoticed"
    assert check_errors("/bin/true", ["portable"]), "a binary that ignores DUO_ISA goes unnoticed"
    assert check_quantize("/bin/true", []), "a quantize that ignores DUO_ISA goes unnoticed"


if __name__ == "__main__":
    self_test()
    here = supported_levels()
    print("this CPU:", ", ".join(here))
    rules.finish(check_tests(sys.argv[2:], here) + check_errors(sys.argv[1], here) + check_quantize(sys.argv[1], here),
                 "forced instruction sets")
