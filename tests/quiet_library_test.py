"""The library does not print, exit or read the environment. Only the command line and the server may."""

import os
import re
import tempfile

import rules

FORBIDDEN = re.compile(
    r"(?<![A-Za-z0-9_.>])(?:std\s*::\s*)?"
    r"(printf|puts|putchar|perror|exit|_exit|quick_exit|abort|terminate|getenv|secure_getenv|system)\s*\("
    r"|\b(stdout|stderr)\b"
    r"|std\s*::\s*(cout|cerr|clog)\b")

# Uses that are intended, with the reason.
ALLOWED = {
    ("src/base/result.cc", "stderr"),      # DUO_CHECK prints what failed,
    ("src/base/result.cc", "abort"),        # then aborts: a bug, not bad input
    ("src/backend/cpu_backend.cc", "getenv"),  # DUO_ISA
}


def strip_comments_and_strings(text):
    text = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def check(root):
    problems = []
    for path in rules.files(root, ["include", "src"], [".h", ".cc", ".cu", ".cuh"]):
        parts = path.split(os.sep)
        if parts[1] in ("cli", "server") or "test" in parts[-1]:
            continue
        for match in FORBIDDEN.finditer(strip_comments_and_strings(rules.read(os.path.join(root, path)))):
            name = next(filter(None, match.groups()))
            if ("/".join(parts), name) not in ALLOWED:
                problems.append(f"{path}: the library must not use {name}")
    return problems


def self_test():
    with tempfile.TemporaryDirectory() as root:
        rules.write_tree(root, {
            "src/kv/a.cc": 'void f() { std::cerr << "x"; }\n',
            "src/kv/b.cc": "void f() { std::exit(1); }\n",
            "src/kv/c.cc": "void f() { getenv(name); }\n",
            "src/kv/d.cc": 'void f() { std::fprintf(stderr, "x"); }\n',
            "src/kv/good.cc": '// printf("x")\nvoid f() { std::snprintf(b, 1, "exit(1)"); session.exit(); }\n',
            "src/cli/main.cc": 'int main() { std::cout << "x"; }\n',
        })
        assert len(check(root)) == 4, check(root)


if __name__ == "__main__":
    self_test()
    rules.finish(check(rules.ROOT), "what the library must not do")
