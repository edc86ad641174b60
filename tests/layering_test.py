"""Rooms include and link lower rooms only, and the programs on top see the library as its users do.

Checks every #include, and the ROOMS lists of CMake.
"""

import os
import re
import tempfile

import rules

# Third-party headers, and the rooms that may include them.
OWNED = {
    r"dnnl.*": {"kernels"},
    r"omp\.h": {"base"},
    r"nlohmann/.*": {"base"},
    r"pcre2\.h": {"text"},
    r"utf8proc\.h": {"text"},
    r"sentencepiece_.*": {"text"},
    r"(immintrin|x86intrin|cpuid)\.h": {"kernels"},
    r"(CLI|spdlog)/.*": {"cli"},
    r"(cuda|cuda_runtime|cuda_bf16|cuda_fp16)\.h": {"kernels", "backend"},
    r"cublas.*": {"kernels"},
}


# The rooms of the program that embeds the library. They include the public headers, `base`, and one header of the rooms
# between. `cli` also includes the rooms whose commands it is.
PROGRAM_ROOMS = {"server": {"base", "server"}, "cli": {"base", "cli", "server", "eval", "identify"}}
SERVING = "engine/serving.h"


def room_of_include(include, problems, where):
    """The room that an included header belongs to, or None for headers of other projects."""
    first, _, rest = include.partition("/")
    if first == "duo":
        name = rest.removesuffix(".h")
        if name not in rules.PUBLIC_HEADER_ROOM:
            problems.append(f"{where}: tests/rules.py does not say which room duo/{rest} belongs to")
            return None
        return rules.PUBLIC_HEADER_ROOM[name]
    return first if first in rules.LEVEL_OF else None


def check_includes(root):
    """Problems of #include lines, and for each room the other rooms that its library (not its tests) includes."""
    problems = []
    used = {}
    for path in rules.files(root, ["include", "src"], [".h", ".cc", ".cu", ".cuh"]):
        parts = path.split(os.sep)
        public = parts[0] == "include"
        room = rules.PUBLIC_HEADER_ROOM.get(parts[-1].removesuffix(".h")) if public else parts[1]
        if room not in rules.LEVEL_OF:
            problems.append(f"{path}: belongs to no room that tests/rules.py knows")
            continue
        for include in rules.INCLUDE.findall(rules.read(os.path.join(root, path))):
            other = room_of_include(include, problems, path)
            for pattern, owners in OWNED.items():
                if re.fullmatch(pattern, include) and room not in owners:
                    problems.append(f"{path}: includes {include}, which only {', '.join(sorted(owners))} may")
            if other is None:
                continue
            if public and not include.startswith("duo/"):
                problems.append(f"{path}: a public header includes the internal {include}")
            if other not in rules.allowed_rooms(room):
                problems.append(f"{path}: {room} must not see {other} ({include})")
            if "test" in parts[-1]:
                continue
            if not is_floor(room, include, other):
                problems.append(f"{path}: includes {include}; {room} may include duo/, base/ and {SERVING} only")
            if other != room:
                used.setdefault(room, set()).add(other)
    return problems, used


def is_floor(room, include, other):
    """Whether `room` may include this header of the room `other`, if it is a room of the program."""
    return room not in PROGRAM_ROOMS or include.startswith("duo/") or include == SERVING or other in PROGRAM_ROOMS[room]


def check_serving(root):
    """SERVING must not bring in headers of the rooms below the engine."""
    problems = []
    seen = []
    waiting = [SERVING]
    while waiting:
        name = waiting.pop()
        paths = [path for path in (os.path.join(root, base, name) for base in ("src", "include")) if os.path.exists(path)]
        if name in seen or not paths:
            continue
        seen.append(name)
        if name.partition("/")[0] not in ("duo", "base", "engine"):
            problems.append(f"src/{SERVING}: brings in {name}")
            continue
        waiting += rules.INCLUDE.findall(rules.read(paths[0]))
    return problems


def check_cmake(root, used):
    """The ROOMS of duo_room() must be lower rooms, and must list every room whose headers the library includes."""
    problems = []
    for room in sorted(rules.LEVEL_OF):
        path = os.path.join("src", room, "CMakeLists.txt")
        if not os.path.exists(os.path.join(root, path)):
            continue
        text = re.sub(r"#.*", "", rules.read(os.path.join(root, path)))
        match = re.search(r"duo_room\(\s*" + room + r"\b([^)]*)\)", text)
        if match is None:
            continue  # cli is a program without a library
        listed = re.search(r"\bROOMS\b((?:\s+[a-z_]+)*)", match.group(1))
        rooms = set(listed.group(1).split()) if listed else set()
        for other in sorted(rooms - (rules.allowed_rooms(room) - {room})):
            problems.append(f"{path}: {room} must not link {other}")
        for other in sorted(used.get(room, set()) - rooms):
            problems.append(f"{path}: {room} includes headers of {other}; add it to ROOMS")
    return problems


def check(root):
    problems, used = check_includes(root)
    return problems + check_serving(root) + check_cmake(root, used)


def self_test():
    """Checks that each rule finds the breach in a small tree that breaks it."""
    cmake = "duo_room({} SOURCES a.cc ROOMS {})\n"
    breaches = {
        "kv must not see model": {"src/kv/a.cc": '#include "model/weights.h"\n'},
        "text must not see heads": {"src/text/a.cc": '#include "duo/head_pattern.h"\n'},
        "kernels must not see checkpoint": {"src/kernels/cpu/a.h": '#  include "checkpoint/limits.h"\n'},
        "only kernels may": {"src/model/a.cc": "#include <dnnl.hpp>\n"},
        "only backend, kernels may": {"src/model/a.cu": "#include <cuda_runtime.h>\n"},
        "a public header includes the internal": {"include/duo/model.h": '#include "base/check.h"\n'},
        "does not say which room": {"src/cli/a.cc": '#include "duo/unheard_of.h"\n'},
        "belongs to no room": {"src/attic/a.cc": "\n"},
        "server may include duo/, base/ and engine/serving.h": {"src/server/a.cc": '#include "backend/backend.h"\n'},
        "cli may include duo/, base/ and engine/serving.h": {"src/cli/a.h": '#include "engine/token_loop.h"\n'},
        "brings in model/weights.h": {"src/engine/serving.h": '#include "engine/a.h"\n',
                                      "src/engine/a.h": '#include "model/weights.h"\n', "src/model/weights.h": "\n"},
        "kv must not link engine": {"src/kv/CMakeLists.txt": cmake.format("kv", "base engine")},
        "add it to ROOMS": {"src/kv/a.cc": '#include "heads/x.h"\n', "src/kv/CMakeLists.txt": cmake.format("kv", "base")},
    }
    for expected, tree in breaches.items():
        with tempfile.TemporaryDirectory() as root:
            rules.write_tree(root, tree)
            found = check(root)
            assert any(expected in problem for problem in found), (expected, found)
    with tempfile.TemporaryDirectory() as root:
        rules.write_tree(root, {"src/kv/a.cc": '#include "base/check.h"\n#include <vector>\n',
                                "src/kv/CMakeLists.txt": cmake.format("kv", "base"),
                                "src/engine/serving.h": '#include "base/check.h"\n',
                                "src/server/a.cc": '#include "engine/serving.h"\n#include "duo/model.h"\n',
                                "src/server/a_test.cc": '#include "model/weights.h"\n',
                                "src/cli/a.cc": '#include "eval/needle.h"\n#include "server/server.h"\n'})
        assert check(root) == [], check(root)


if __name__ == "__main__":
    self_test()
    rules.finish(check(rules.ROOT), "layers")
