#!/usr/bin/env python3
"""Objects compiled for a newer CPU must not define symbols that the linker may use instead of a baseline copy.

A weak symbol is an inline function or a template's instance. In a file compiled with -mavx512f it can win over the same
symbol of an ordinary file. A CPU without AVX-512 then crashes in code that does not use AVX-512. So such objects may
have no weak symbols.

usage: isa_objects_test.py --nm NM --compiler CXX OBJECT...
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

# The letters of nm: W and w are weak symbols, V and v weak objects, u is a unique global.
FORBIDDEN = set("WwVvu")

# Compilers and sanitizers put these references into every object. The run-time library resolves them.
TOLERATED_UNDEFINED_PREFIXES = ("__asan_", "__ubsan_", "__tsan_", "__sanitizer_", "__gmon_start__")

# A pointer to the exception personality routine. It is the same in every object, and it is data, not code.
TOLERATED_DATA_PREFIXES = ("DW.ref.",)


def weak_symbols(nm, path):
    """[(letter, name)] of the forbidden symbols of one object."""
    out = subprocess.run([nm, path], check=True, capture_output=True, text=True).stdout
    found = []
    for line in out.splitlines():
        fields = line.split()
        letter, name = (fields[1], fields[2]) if len(fields) == 3 else (fields[0], fields[1])
        if letter not in FORBIDDEN:
            continue
        if letter in "wv" and name.startswith(TOLERATED_UNDEFINED_PREFIXES):
            continue
        if letter == "V" and name.startswith(TOLERATED_DATA_PREFIXES):
            continue
        found.append((letter, name))
    return found


def defines_code(nm, path):
    out = subprocess.run([nm, "--defined-only", path], check=True, capture_output=True, text=True).stdout
    return " T " in out or " t " in out


def self_check(nm, compiler):
    """Checks that this test can fail: it must find an object with an inline function that was not inlined."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "bad.cc")
        source.write_text("inline int Twice(int x) { return 2 * x; }\nint (*Take())(int) { return Twice; }\n")
        bad = str(pathlib.Path(folder, "bad.o"))
        subprocess.run([compiler, "-O0", "-c", str(source), "-o", bad], check=True)
        if not weak_symbols(nm, bad):
            sys.exit("self-check: the weak symbol of a deliberately bad object was not found")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nm", required=True)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("objects", nargs="+")
    args = parser.parse_args()
    self_check(args.nm, args.compiler)
    failures = []
    for path in args.objects:
        if not defines_code(args.nm, path):
            failures.append(f"{path}: defines no function; is the list of objects right?")
        failures += [f"{path}: {letter} {name}" for letter, name in weak_symbols(args.nm, path)]
    if failures:
        sys.exit("weak symbols in objects of a newer instruction set:\n" + "\n".join(failures))
    print(f"{len(args.objects)} objects, no weak symbols")


if __name__ == "__main__":
    main()
