"""src/README.md, ARCHITECTURE.md, CONTRIBUTING.md and docs/ name only files that exist, and every room is on the map."""

import glob
import os
import re
import tempfile

import rules

PAGES = ["ARCHITECTURE.md", "CONTRIBUTING.md", "src/README.md", "docs/decisions/*.md"]
# `kv/full_cache.cc`, `tests/rules.py`, `kernels/reference/`, `cli/cmd_<verb>.cc`
NAMED = re.compile(r"`((?:[\w.<>-]+/)+[\w.<>-]*)`")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def exists(root, page, name):
    pattern = re.sub(r"<\w+>", "*", name)
    bases = [root, os.path.join(root, "src"), os.path.join(root, "include"), os.path.dirname(os.path.join(root, page))]
    return any(glob.glob(os.path.join(base, pattern)) for base in bases)


def check(root):
    problems = []
    for pattern in PAGES:
        for path in sorted(glob.glob(os.path.join(root, pattern))):
            page = os.path.relpath(path, root)
            text = rules.read(path)
            names = NAMED.findall(text) + [link for link in LINK.findall(text) if not link.startswith("http")]
            problems += [f"{page}: {name} does not exist" for name in names
                         if not name.startswith("build/") and not exists(root, page, name)]
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
            "src/kv/CMakeLists.txt": "", "src/kv/a.cc": "", "src/kv/b_avx2.cc": "", "src/text/CMakeLists.txt": "",
        })
        found = check(root)
        assert len(found) == 4, found


if __name__ == "__main__":
    self_test()
    rules.finish(check(rules.ROOT), "the map")
