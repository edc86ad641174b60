#!/usr/bin/env python3
"""Measures how good the tests are: changes one line of a room's sources at a time, and checks whether a test notices.

    tools/mutate.py kv engine [--sample 60] [--seed 1]   judge 60 mutants of each room, or continue a killed run
    tools/mutate.py kv --again                           judge again the mutants that the room's own tests did not kill
    tools/mutate.py --table                              print the table of all rooms so far
    tools/mutate.py kv --alive                           print the mutants that no test killed
    tools/mutate.py kv --list                            print the sample, and build nothing

The test programs of the mutant's own room run first (`duo_test` in the room's CMakeLists.txt). Then those of
tools/mutate_suites.json run until one fails. All are built under AddressSanitizer in --work (build/mutate) from a copy
of the tree, so the checkout does not change.

A program is stopped when it computes --factor times as long as without a mutant. It is also stopped when it does nothing
for two minutes and twice that time. The mutant then counts as killed by a time-out. Three kinds of mutants are not counted: those that do not compile,
those whose object file does not change, and those that tools/mutants_equivalent.txt lists with a reason. Every sample
includes the mutants of tools/mutants_by_hand.txt.

Verdicts are lines of JSON in WORK/log.jsonl. The last verdict of a mutant counts. The exit code is 1 when tests fail
without a mutant.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mutants

FLAGS = "-w -O1 -fno-omit-frame-pointer -fsanitize=address -D_GLIBCXX_ASSERTIONS -fuse-ld=gold"


class Tree:
    """A copy of the sources, and its build folder."""

    def __init__(self, root: Path, work: Path, jobs: int):
        self.root, self.copy, self.build, self.jobs = root, work / "tree", work / "build", jobs
        self.scratch = work / "scratch"
        self.environment = dict(
            os.environ, OMP_WAIT_POLICY="passive", CCACHE_BASEDIR=str(self.copy), CCACHE_NOHASHDIR="1",
            ASAN_OPTIONS="allocator_may_return_null=1", TMPDIR=str(self.scratch),
            LSAN_OPTIONS=f"suppressions={self.copy}/tests/lsan_suppressions.txt" if
            (root / "tests/lsan_suppressions.txt").exists() else "")

    def names(self) -> list[str]:
        listed = subprocess.run(["git", "-C", self.root, "ls-files", "-co", "--exclude-standard", "-z"], capture_output=True)
        if listed.returncode == 0:
            return [name for name in listed.stdout.decode().split("\0") if name and (self.root / name).is_file()]
        return [str(path.relative_to(self.root)) for path in self.root.rglob("*")
                if path.is_file() and "build" not in path.relative_to(self.root).parts]

    def update(self) -> None:
        """Makes the copy equal to the checkout. Files that are already equal keep their times."""
        names = set(self.names())
        for path in list(self.copy.rglob("*")):
            if path.is_file() and str(path.relative_to(self.copy)) not in names:
                path.unlink()
        for name in names:
            source, target = self.root / name, self.copy / name
            if not target.exists() or source.read_bytes() != target.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    def configure(self) -> None:
        command = ["cmake", "-G", "Ninja", "-S", self.copy, "-B", self.build, "-DCMAKE_BUILD_TYPE=None",
                   "-DDUO_BUILD_TESTS=ON", f"-DCMAKE_CXX_FLAGS={FLAGS}"]
        if shutil.which("ccache"):
            command += ["-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        if done.returncode != 0:
            sys.exit(f"tools/mutate.py: cmake failed: {done.stderr}")

    def make(self, *targets: str) -> str:
        """Builds the targets. Returns the output when the build fails, else an empty text."""
        done = subprocess.run(["cmake", "--build", self.build, "--parallel", str(self.jobs), "--target", *targets],
                              capture_output=True, text=True, env=self.environment)
        return done.stdout if done.returncode != 0 else ""

    def program(self, name: str) -> Path:
        found = [path for path in self.build.rglob(name) if path.is_file() and os.access(path, os.X_OK)]
        if len(found) != 1:
            sys.exit(f"tools/mutate.py: {len(found)} programs are named {name} below {self.build}, expected one")
        return found[0]

    def object_hash(self, file: str) -> str:
        """The hash of a source's object file, or an empty text when there is none."""
        room, _, rest = file.removeprefix("src/").partition("/")
        found = list(self.build.glob(f"src/{room}/CMakeFiles/duo_{room}.dir/{rest}.o"))
        return hashlib.sha1(found[0].read_bytes()).hexdigest() if found else ""


def seconds_of_session(leader: int) -> float:
    """The CPU time so far of the processes of a session."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has just ended
        if int(fields[3]) == leader:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Tests:
    """Runs test programs of a tree. A name with a slash is a Python program, and gets the path of duo."""

    def __init__(self, tree: Tree, factor: float, min_seconds: int):
        self.tree, self.factor, self.min_seconds = tree, factor, min_seconds
        self.seconds: dict[str, tuple[float, float]] = {}  # CPU time and wall time without a mutant

    def targets(self, names: list[str]) -> list[str]:
        return list(dict.fromkeys("duo" if "/" in name else name for name in names))

    def run(self, name: str) -> str:
        """Runs a test program. Returns `passed`, `failed` or `time-out`."""
        if "/" in name:
            command = [sys.executable, "-B", str(self.tree.copy / name), str(self.tree.program("duo")), "--failfast"]
        else:
            command = [str(self.tree.program(name)), "--gtest_fail_fast", "--gtest_brief=1"]
        cpu, wall = self.seconds.get(name, (None, None))
        cpu_limit = None if cpu is None else int(self.factor * cpu) + self.min_seconds
        wall_limit = None if wall is None else 2 * wall + 12 * self.min_seconds
        shutil.rmtree(self.tree.scratch, ignore_errors=True)
        self.tree.scratch.mkdir(parents=True)
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        process = subprocess.Popen(
            command, cwd=self.tree.scratch, env=self.tree.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_CPU, (cpu_limit, cpu_limit + 5))) if cpu_limit else None)
        code = self.wait(process, wall_limit)
        try:
            os.killpg(process.pid, signal.SIGKILL)  # ends servers that a test program left running
        except ProcessLookupError:
            pass
        process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if cpu is None:
            self.seconds[name] = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime,
                                  time.monotonic() - begin)
        return {0: "passed", -signal.SIGXCPU: "time-out"}.get(code, "failed")

    @staticmethod
    def wait(process: subprocess.Popen, wall_limit: float | None) -> int:
        """Waits for the exit status. It is that of a time-out when the session used no CPU time for wall_limit seconds.
        (On a busy machine a program may wait long for its turn without hanging.)"""
        worked = 0.0
        while True:
            try:
                return process.wait(timeout=wall_limit)
            except subprocess.TimeoutExpired:
                before, worked = worked, seconds_of_session(process.pid)
                if worked - before < 0.1:
                    return -signal.SIGXCPU

    def must_pass(self, names: list[str]) -> None:
        """Runs the tests without a mutant, to measure the times for the limits. Exits when one fails."""
        for name in names:
            if name not in self.seconds and self.run(name) != "passed":
                sys.exit(f"tools/mutate.py: {name} fails without a mutant")

    def first_kill(self, names: list[str]) -> tuple[str, str]:
        """Returns the first program that notices the mutant, and `failed` or `time-out`. Both are empty when none
        does."""
        for name in names:
            result = self.run(name)
            if result != "passed":
                return name, result
        return "", ""


class Room:
    """The files that are mutated and the tests that judge them."""

    def __init__(self, root: Path, name: str):
        self.name = name
        folder = root / "src" / name
        if not folder.is_dir():
            sys.exit(f"tools/mutate.py: {folder} is not a folder, expected the name of a room")
        self.files = sorted(str(path.relative_to(root)) for path in folder.rglob("*.cc")
                            if not path.name.endswith(("_test.cc", "_for_test.cc"))
                            and not re.search(r"/cuda[/_]", str(path.relative_to(root))))
        lists = [folder / "CMakeLists.txt", *sorted(folder.glob("*.cmake"))]
        # Indented ones are inside a condition, and may not exist.
        self.own = [test for path in lists for test in re.findall(r"^duo_test\(\s*(\w+)", path.read_text(), re.MULTILINE)]
        self.suite = json.loads((root / "tools/mutate_suites.json").read_text()).get(name, [])

    def sample(self, root: Path, n: int, seed: int) -> list[mutants.Mutant]:
        """The n mutants that the seed ranks first, and those by hand, in the order of the files. When a line changes,
        the draw of the other lines stays the same."""
        found = [m for file in self.files for m in mutants.mutants_of(file, (root / file).read_text())]
        found.sort(key=lambda m: hashlib.sha1(f"{seed}/{m.id}".encode()).digest())
        chosen = {m.id: m for m in found[:n]}
        for entry in entries(root, "mutants_by_hand.txt"):
            if entry["file"] in self.files:
                try:
                    mutant = mutants.by_hand(entry, (root / entry["file"]).read_text())
                except ValueError as error:
                    sys.exit(f"tools/mutants_by_hand.txt: {error}; update the entry to the source, or remove it")
                chosen[mutant.id] = mutant
        return sorted(chosen.values(), key=lambda m: (m.file, m.line_number, m.becomes))


def entries(root: Path, name: str) -> list[dict[str, str]]:
    path = root / "tools" / name
    return mutants.read_list(path.read_text(), str(path)) if path.exists() else []


class Log:
    """The verdicts, one line of JSON each. A line that a killed run left incomplete is dropped."""

    def __init__(self, path: Path):
        self.path, self.verdicts = path, {}
        text = path.read_text() if path.exists() else ""
        for line in text.split("\n")[:-1]:
            verdict = json.loads(line)
            self.verdicts[verdict["id"]] = verdict
        if text and not text.endswith("\n"):
            path.write_text(text[:text.rfind("\n") + 1])

    def add(self, mutant: mutants.Mutant, **verdict) -> dict:
        verdict = {"id": mutant.id, "file": mutant.file, "line": mutant.line, "becomes": mutant.becomes,
                   "operator": mutant.operator, "date": datetime.date.today().isoformat(), **verdict}
        self.verdicts[mutant.id] = verdict
        with self.path.open("a") as out:
            out.write(json.dumps(verdict) + "\n")
        return verdict


class Judge:
    def __init__(self, root: Path, tree: Tree, tests: Tests, log: Log, own_only: bool):
        self.root, self.tree, self.tests, self.log, self.own_only = root, tree, tests, log, own_only
        self.equivalent = {(e["file"], e["line"], e["becomes"]) for e in entries(root, "mutants_equivalent.txt")}

    def room(self, room: Room, sample: list[mutants.Mutant], again: bool) -> None:
        todo = [m for m in sample if self.is_open(m, again)]
        print(f"{room.name}: {len(sample)} mutants, {len(todo)} to judge", flush=True)
        if not todo:
            return
        names = room.own + ([] if self.own_only else room.suite)
        failed = self.tree.make(*self.tests.targets(names))
        if failed:
            sys.exit(f"tools/mutate.py: the build fails without a mutant:\n{failed[-3000:]}")
        self.tests.must_pass(names)
        hashes = {file: self.tree.object_hash(file) for file in room.files}
        for number, mutant in enumerate(todo, 1):
            verdict = self.log.add(mutant, room=room.name, **self.judge(room, mutant, hashes[mutant.file]))
            print(f"{room.name} {number}/{len(todo)} {verdict['result']} {verdict.get('by', '')} "
                  f"{mutant.file}:{mutant.line_number}: {mutant.line}  =>  {mutant.becomes}", flush=True)

    def is_open(self, mutant: mutants.Mutant, again: bool) -> bool:
        verdict = self.log.verdicts.get(mutant.id)
        if self.is_equivalent(mutant):
            return False
        if verdict is None or (verdict["result"] == "not killed by own" and not self.own_only):
            return True
        return again and verdict["result"] in ("alive", "not killed by own", "killed by suite")

    def is_equivalent(self, mutant: mutants.Mutant) -> bool:
        return (mutant.file, mutant.line, mutant.becomes) in self.equivalent

    def judge(self, room: Room, mutant: mutants.Mutant, object_hash: str) -> dict:
        path = self.tree.copy / mutant.file
        text = path.read_text()
        try:
            path.write_text(mutants.apply(text, mutant))
            return self.verdict(room, mutant, object_hash)
        finally:
            path.write_text(text)

    def verdict(self, room: Room, mutant: mutants.Mutant, object_hash: str) -> dict:
        if self.tree.make(*(room.own or self.tests.targets(room.suite))):
            return {"result": "does not compile"}
        if object_hash and self.tree.object_hash(mutant.file) == object_hash:
            return {"result": "same object"}
        by, how = self.tests.first_kill(room.own)
        if by:
            return {"result": "killed by own", "by": by, "how": how}
        if self.own_only:
            return {"result": "not killed by own"}
        failed = self.tree.make(*self.tests.targets(room.suite)) if room.suite else ""
        if failed:
            sys.exit(f"tools/mutate.py: the suite does not link with a mutant that compiled:\n{failed[-3000:]}")
        by, how = self.tests.first_kill(room.suite)
        return {"result": "killed by suite" if by else "alive", "by": by, "how": how}


def table(root: Path, judge: Judge, names: list[str], n: int, seed: int) -> str:
    """A table in Markdown, with a row for each room that has verdicts."""
    rows = ["| room | mutants | killed by its own tests | by the whole suite | of them time-outs | alive | not judged by the "
            "suite | not compiled | equivalent | last judged |", "|---|---|---|---|---|---|---|---|---|---|"]
    for name in names:
        sample = Room(root, name).sample(root, n, seed)
        equivalent = {m.id for m in sample if judge.is_equivalent(m)}
        verdicts = [judge.log.verdicts[m.id] for m in sample if m.id in judge.log.verdicts and m.id not in equivalent]
        if not verdicts:
            continue
        count = collections.Counter(v["result"] for v in verdicts)
        own, suite = count["killed by own"], count["killed by own"] + count["killed by suite"]
        total = suite + count["alive"] + count["not killed by own"]
        least = "at least " if count["not killed by own"] else ""
        late = sum(v.get("how") == "time-out" for v in verdicts)

        def share(part: int) -> str:
            return f"{part} ({100 * part / total:.0f} %)" if total else "-"

        rows.append(f"| {name} | {total} | {share(own)} | {least}{share(suite)} | {late} | {count['alive']} | "
                    f"{count['not killed by own']} | {count['does not compile']} | "
                    f"{len(equivalent) + count['same object']} | {max(v['date'] for v in verdicts)} |")
    return "\n".join([f"{n} mutants per room drawn with seed {seed}, and those by hand.", "", *rows])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", help="Folders of src/.")
    parser.add_argument("--sample", type=int, default=60, help="Mutants per room.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="Judge again what the room's own tests did not kill.")
    parser.add_argument("--own-only", action="store_true", help="Leave the suite to a later run.")
    parser.add_argument("--file", help="Judge only mutants of this source.")
    parser.add_argument("--factor", type=float, default=5,
                        help="Limit of a program's CPU time, as a multiple of its time without a mutant.")
    parser.add_argument("--min-seconds", type=int, default=10,
                        help="Seconds that are added to each limit, for short programs.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="Jobs of the build.")
    parser.add_argument("--table", action="store_true", help="Print the table of all rooms so far.")
    parser.add_argument("--alive", action="store_true", help="Print the rooms' mutants that no test killed.")
    parser.add_argument("--list", action="store_true", help="Print the rooms' samples.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="Folder for the copy, its build and the log (default: build/mutate).")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    root = args.root.resolve()
    work = (args.work or root / "build" / "mutate").resolve()
    work.mkdir(parents=True, exist_ok=True)
    tree = Tree(root, work, args.jobs)
    judge = Judge(root, tree, Tests(tree, args.factor, args.min_seconds), Log(work / "log.jsonl"), args.own_only)
    if args.table:
        names = args.rooms or sorted(path.parent.name for path in root.glob("src/*/CMakeLists.txt"))
        print(table(root, judge, names, args.sample, args.seed))
        return
    samples = {}
    for name in args.rooms:
        room = Room(root, name)
        samples[name] = room, [m for m in room.sample(root, args.sample, args.seed) if args.file in (None, m.file)]
    if args.list or args.alive:
        for room, sample in samples.values():
            for m in sample:
                result = judge.log.verdicts.get(m.id, {}).get("result", "not judged")
                if args.list or (result in ("alive", "not killed by own") and not judge.is_equivalent(m)):
                    print(f"{m.file}:{m.line_number}: {m.operator}, {result}\n    {m.line}\n    {m.becomes}")
        return
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"tools/mutate.py: another run uses {work}")
        tree.update()
        tree.configure()
        for room, sample in samples.values():
            judge.room(room, sample, args.again)
        shutil.rmtree(tree.scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
