"""Tests README.md: its commands run, its program is the tested one, and its links exist.

usage: readme_test.py DUO_BINARY
"""

import os
import re
import subprocess
import sys
import tempfile

import rules

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
# These build and test everything, so a test cannot run them. .ci/run runs them.
SCRIPTS = ("scripts/demo", "scripts/test")


def blocks(text, language):
    return [body for found, body in FENCE.findall(text) if found == language]


def run_block(block, duo, directory):
    """The failure of this block of commands, or None."""
    command = block.replace("$PWD/build/release/bin", os.path.dirname(os.path.abspath(duo)))
    result = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=directory, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    print(result.stdout)
    if result.returncode != 0:
        return f"exit {result.returncode} of the commands\n{block}"
    return None


def check_commands(text, duo):
    problems = []
    found = blocks(text, "sh")
    if not found:
        problems.append("README.md has no ```sh block")
    for block in found:
        if block.strip() in SCRIPTS:
            if not os.access(os.path.join(rules.ROOT, block.strip()), os.X_OK):
                problems.append(f"{block.strip()} is no program")
            continue
        # The commands run in a folder of links to the repository, so that they write nothing into the sources.
        with tempfile.TemporaryDirectory() as directory:
            for name in os.listdir(rules.ROOT):
                if not name.startswith(".") and name != "build":
                    os.symlink(os.path.join(rules.ROOT, name), os.path.join(directory, name))
            problems.append(run_block(block, duo, directory))
    return [problem for problem in problems if problem]


def check_program(text, program):
    if program in blocks(text, "cpp"):
        return []
    return ["README.md: the C++ example is not tests/consumer/main.cc"]


def check_links(text, root):
    targets = [target for target in LINK.findall(text) if not target.startswith("http")]
    return [f"README.md: {target} does not exist" for target in targets
            if not os.path.exists(os.path.join(root, target))]


def self_test(duo):
    assert check_commands("```sh\nexit 3\n```\n", duo), "a failing command goes unnoticed"
    assert check_commands("no commands\n", duo), "a page without commands goes unnoticed"
    assert not check_commands("```sh\ntrue # $PWD/build/release/bin\n```\n", duo)
    assert check_program("```cpp\nint x;\n```\n", "int main() {}\n")
    assert check_links("[a](no/such/file.md#part)", rules.ROOT)


if __name__ == "__main__":
    self_test(sys.argv[1])
    page = rules.read(os.path.join(rules.ROOT, "README.md"))
    consumer = rules.read(os.path.join(rules.ROOT, "tests", "consumer", "main.cc"))
    rules.finish(check_commands(page, sys.argv[1]) + check_program(page, consumer) + check_links(page, rules.ROOT),
                 "README.md")
