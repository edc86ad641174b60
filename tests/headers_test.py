"""Every header compiles alone and may be included twice.

The build shows that a header compiles alone if a source file includes it before anything else. This compiles the others.

usage: headers_test.py COMPILER [FLAG...]
"""

import concurrent.futures
import os
import subprocess
import sys
import tempfile

import rules

# A header with intrinsics in it is compiled for the instruction set in its name.
ISA_FLAGS = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma", "-mf16c"],
}


def compile_header(command, root, header):
    """The compiler's messages, or None when the header compiles."""
    flags = []
    if "/cuda/" in header:
        # Stand-ins for CUDA's own headers, which not every machine has.
        flags = ["-I", os.path.join(root, "tests"), "-I", os.path.join(root, "tests/cuda_on_host")]
    for isa, isa_flags in ISA_FLAGS.items():
        if isa in os.path.basename(header):
            flags = isa_flags
    included = os.path.relpath(header, "include" if header.startswith("include") else "src")
    source = f'#include "{included}"\n#include "{included}"\n'
    run = subprocess.run(
        command + flags + ["-std=c++20", "-fsyntax-only", "-x", "c++",
                           "-I", os.path.join(root, "include"), "-I", os.path.join(root, "src"), "-"],
        input=source, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return None
    return f"{header} does not compile alone:\n{run.stderr.strip()[:2000]}"


def first_includes(root):
    """Names of headers that a source file of every build includes first."""
    names = set()
    for source in rules.files(root, ["src"], [".cc"]):
        found = rules.INCLUDE.search(rules.read(os.path.join(root, source)))
        if found and "cuda" not in source:
            names.add(found.group(1))
    return names


def check(command, root):
    headers = rules.files(root, ["include", "src"], [".h", ".cuh"])
    problems = [f"{header}: has no #pragma once" for header in headers
                if "#pragma once" not in rules.read(os.path.join(root, header))]
    shown = first_includes(root)
    rest = [header for header in headers if header.partition(os.sep)[2].replace(os.sep, "/") not in shown]
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        results = pool.map(lambda header: compile_header(command, root, header), rest)
        return problems + [problem for problem in results if problem], len(headers)


def self_test(command):
    with tempfile.TemporaryDirectory() as root:
        rules.write_tree(root, {
            "include/duo/needs_string.h": "#pragma once\nstd::string Name();\n",
            "src/kv/unguarded.h": "struct Twice {};\n",
            "src/kv/good.h": "#pragma once\n#include <string>\nstd::string Name();\n",
            "src/kv/shown.h": "#pragma once\nthe build compiles this one\n",
            "src/kv/shown.cc": '#include "kv/shown.h"\n',
            "src/kv/second.h": "#pragma once\nstd::string Second();\n",
            "src/kv/second.cc": '#include <string>\n#include "kv/second.h"\n',
        })
        problems, _ = check(command, root)
        assert sorted(problem.split()[0].rstrip(":") for problem in problems) == [
            "include/duo/needs_string.h", "src/kv/second.h", "src/kv/unguarded.h", "src/kv/unguarded.h"], problems


if __name__ == "__main__":
    self_test(sys.argv[1:])
    found, n_headers = check(sys.argv[1:], rules.ROOT)
    rules.finish(found, f"{n_headers} headers on their own")
