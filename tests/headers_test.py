"""Every header compiles alone, and when it is included twice.

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


def check(command, root):
    headers = rules.files(root, ["include", "src"], [".h", ".cuh"])
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        results = pool.map(lambda header: compile_header(command, root, header), headers)
        return [problem for problem in results if problem], len(headers)


def self_test(command):
    with tempfile.TemporaryDirectory() as root:
        rules.write_tree(root, {
            "include/duo/needs_string.h": "#pragma once\nstd::string Name();\n",
            "src/kv/unguarded.h": "struct Twice {};\n",
            "src/kv/good.h": "#pragma once\n#include <string>\nstd::string Name();\n",
        })
        problems, _ = check(command, root)
        assert len(problems) == 2, problems


if __name__ == "__main__":
    self_test(sys.argv[1:])
    found, n_headers = check(sys.argv[1:], rules.ROOT)
    rules.finish(found, f"{n_headers} headers on their own")
