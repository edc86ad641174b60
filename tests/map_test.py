"""Pages name only files and functions that exist, sources cite only pages that exist, and every room is on the map."""

import glob
import os
import re
import tempfile

import rules

PAGES = ["ARCHITECTURE.md", "CONTRIBUTING.md", "src/README.md", "src/*/*/README.md", "docs/design.md",
         "docs/life_of_*.md", "docs/decisions/*.md"]
# `kv/full_cache.cc`, `tests/rules.py`, `kernels/reference/`, `cli/cmd_<verb>.cc`
NAMED = re.compile(r"`((?:[\w.<>-]+/)+[\w.<>-]*)`")
# `engine/session.cc`: `Session::Prefill`
FUNCTION = re.compile(r"`((?:[\w-]+/)+[\w.-]+)`:\s+`(?:\w+::)*(\w+)`")
# docs/numerics.md in a comment
PAGE = re.compile(r"(?<![\w./:-])((?:[\w-]+/)*[A-Za-z][\w-]*\.md)\b")
CITING = ["include", "src", "tests", "bench", "fuzz", "tools", "docs"]
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def exists(root, page, name):
    pattern = re.sub(r"<\w+>", "*", name)
    bases = [root, os.path.join(root, "src"), os.path.join(root, "include"), os.path.dirname(os.path.join(root, page))]
    return any(glob.glob(os.path.join(base, pattern)) for base in bases)


def missing_functions(root, page, text):
    problems = []
    for name, function in FUNCTION.findall(text):
        path = os.path.join(root, "src", name)
        if os.path.exists(path) and not re.search(rf"\b{function}\b", rules.read(path)):
            problems.append(f"{page}: {name} has no {function}")
    return problems


def missing_pages(root):
    problems = []
    for path in rules.files(root, CITING, [".h", ".cc", ".cu", ".cuh", ".md"]):
        for name in PAGE.findall(rules.read(os.path.join(root, path))):
            places = [root, os.path.join(root, "docs"), os.path.join(root, os.path.dirname(path))]
            if not any(os.path.exists(os.path.join(place, name)) for place in places):
                problems.append(f"{path}: cites {name}, which does not exist")
    return problems


def check(root):
    problems = missing_pages(root)
    for pattern in PAGES:
        for path in sorted(glob.glob(os.path.join(root, pattern))):
            page = os.path.relpath(path, root)
            text = rules.read(path)
            names = NAMED.findall(text) + [link for link in LINK.findall(text) if not link.startswith("http")]
            problems += [f"{page}: {name} does not exist" for name in names
                         if not name.startswith("build/") and not exists(root, page, name)]
            problems += missing_functions(root, page, text)
    rooms = [r for r in rules.LEVEL_OF if os.path.exists(os.path.join(root, "src", r, "CMakeLists.txt"))]
    map_text = rules.read(os.path.join(root, "src/README.md"))
    table = rules.read(os.path.join(root, "ARCHITECTURE.md"))
    problems += [f"src/README.md: room {room} is not on the map" for room in rooms if f"`{room}/" not in map_text]
    problems += [f"ARCHITECTURE.md: room {room} is not in the table" for room in rooms if f"| `{room}` |" not in table]
    return problems


def self_test():
    with tempfile.TemporaryDirectory() as root:
        rules.write_tree(root, {
            "ARCHITECTURE.md": "| `kv` | see [there](docs/no.md) |\n",
            "src/README.md": "- x → `kv/a.cc`, `kv/b_<isa>.cc`, `kv/gone.cc`\n",
            "src/kv/CMakeLists.txt": "", "src/kv/a.cc": "// See PLAN.md.\nvoid A::Run() {}\n", "src/kv/b_avx2.cc": "",
            "src/text/CMakeLists.txt": "",
            "docs/life_of_a.md": "1. `kv/a.cc`: `A::Run`, then `kv/a.cc`: `A::Walk`\n",
        })
        found = check(root)
        assert len(found) == 6, found


if __name__ == "__main__":
    self_test()
    rules.finish(check(rules.ROOT), "the map")
