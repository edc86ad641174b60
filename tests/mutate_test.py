"""tools/mutate.py finds the faults that weak tests miss, in a toy tree of one room with two test programs."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "tools"))

import mutants  # noqa: E402  (beside the tool)
import rules  # noqa: E402

TOY = """#include <unistd.h>
int Clamp(int x, int low, int high) {
  if (x < low) return low;
  if (x > high) return high;
  return x;
}
bool Contains(const int* values, int n, int x) {
  for (int i = 0; i < n; ++i) {
    if (values[i] == x) return true;
  }
  return false;
}
int Halvings(unsigned n) {
  int steps = 0;
  while (n > 1) {
    n /= 2;
    ++steps;
  }
  return steps;
}
void WaitUnless(bool ready) {
  if (!ready) pause();
}
"""
DECLARATIONS = "int Clamp(int, int, int);\nbool Contains(const int*, int, int);\nint Halvings(unsigned);\nvoid WaitUnless(bool);\n"
TREE = {
    "CMakeLists.txt": """cmake_minimum_required(VERSION 3.25)
project(toy CXX)
function(duo_test name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE duo_toy)
endfunction()
add_subdirectory(src/toy)
""",
    "src/toy/CMakeLists.txt": """add_library(duo_toy STATIC toy.cc)
duo_test(toy_test toy_test.cc)
  duo_test(strong_test strong_test.cc)
""",
    "src/toy/toy.cc": TOY,
    # Never above the range.
    "src/toy/toy_test.cc": "#include <vector>\n" + DECLARATIONS + """int main() {
  const std::vector<int> values = {1, 2};
  WaitUnless(true);
  return Clamp(5, 0, 10) == 5 && Clamp(-1, 0, 10) == 0 && Clamp(0, 0, 10) == 0 && Contains(values.data(), 2, 1) &&
         !Contains(values.data(), 2, 3) && Halvings(8) == 3 && Halvings(1) == 0 ? 0 : 1;
}
""",
    "src/toy/strong_test.cc": DECLARATIONS + "int main() { return Clamp(12, 0, 10) == 10 ? 0 : 1; }\n",
    "tools/mutate_suites.json": '{"toy": ["strong_test"]}',
    "tools/mutants_equivalent.txt": """# One of them.
file: src/toy/toy.cc
line: if (x < low) return low;
becomes: if (x <= low) return low;
reason: x is low then
""",
    "tools/mutants_by_hand.txt": """file: src/toy/toy.cc
line: return x;
becomes: return x == 7 ? 8 : x;
reason: nobody asks for 7
""",
}


class OperatorsTest(unittest.TestCase):
    def becomes(self, text):
        return [m.becomes for m in mutants.mutants_of("a.cc", text)]

    def test_a_line_and_its_mutants(self):
        self.assertEqual(self.becomes("  if (a < b && !c) n += 1;"), [
            "if (a <= b && !c) n += 1;", "if (a < b || !c) n += 1;", "if (a < b && !c) n -= 1;", "if (a < b && c) n += 1;",
            "if (!(a < b && !c)) n += 1;", "if (a < b && !c) n += 2;", ";"])
        self.assertEqual(self.becomes("  return std::min(a + 1, b * 0.5f);"), [
            "return std::min(a + 1, b / 0.5f);", "return std::max(a + 1, b * 0.5f);", "return std::min(a, b * 0.5f);",
            "return std::min(a + 1, b * 0.515f);"])

    def test_only_code_is_changed(self):
        for text in ["// a < b\n", '/* 1 */ /* a\n < b */\n', "#if A < 1\n", "DUO_CHECK(a < b,\n  c > 2);\n",
                     "constexpr int kMaxRows = 12;\n", "template <typename T>\n", "static_assert(sizeof(int) == 4);\n"]:
            self.assertEqual(self.becomes(text), [], text)
        self.assertEqual(self.becomes('const char* a = "a < 1";  // b < 2\n'), [])
        self.assertEqual(self.becomes('auto a = R"(x < 1\n")" + b;\n'), [])

    def test_statements_are_removed_whole(self):
        self.assertNotIn(";", self.becomes("  x = a +\n      Call(b);\n"))
        self.assertNotIn(";", self.becomes("  if (a) F();\n  else G();\n")[:2])
        self.assertIn(";", self.becomes("  F(a);\n"))
        self.assertNotIn(";", self.becomes("  int x = a;\n  return x;\n"))

    def test_a_mutant_is_known_by_its_line_not_by_the_line_s_number(self):
        one = mutants.mutants_of("a.cc", "int a = 0;\nF(a);\nF(a);\n")
        moved = mutants.mutants_of("a.cc", "\n// more\nint a = 0;\nF(a);\nG();\nF(a);\n")
        self.assertEqual(len({m.id for m in one}), len(one))
        self.assertLess({m.id for m in one}, {m.id for m in moved})

    def test_lists_say_what_they_lack(self):
        with self.assertRaisesRegex(ValueError, "reason"):
            mutants.read_list("file: a\nline: b\nbecomes: c\n", "list")

    def test_listed_lines_are_lines_of_their_files(self):
        for name in ["mutants_by_hand.txt", "mutants_equivalent.txt"]:
            for entry in mutants.read_list((SOURCE / "tools" / name).read_text(), name):
                lines = [line.strip() for line in (SOURCE / entry["file"]).read_text().splitlines()]
                self.assertIn(entry["line"], lines, entry["file"])


class ToyTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name) / "toy"
        self.log = self.root / "build" / "mutate" / "log.jsonl"
        rules.write_tree(str(self.root), TREE)

    def command(self, *args):
        return [sys.executable, "-B", str(SOURCE / "tools" / "mutate.py"), "--root", str(self.root), "--jobs", "1",
                "--min-seconds", "1", "--sample", "1000", *args]

    def run_tool(self, *args):
        done = subprocess.run(self.command(*args), capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def verdicts(self):
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        self.assertEqual(len({v["id"] for v in lines}), len(lines), "judged twice")
        return {(v["line"], v["becomes"]): v for v in lines}

    def test_verdicts_survive_a_kill(self):
        with subprocess.Popen(self.command("toy"), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            for line in process.stdout:
                if line.startswith("toy 3/"):
                    break
            os.killpg(process.pid, signal.SIGKILL)
        with self.log.open("a") as out:
            out.write('{"id": "half a li')
        before = self.log.read_text().count("\n")
        self.assertGreaterEqual(before, 3)
        out = self.run_tool("toy")
        n = len(mutants.mutants_of("src/toy/toy.cc", TOY))  # one is equivalent, and one more is by hand
        self.assertIn(f"toy: {n + 1} mutants, {n - before} to judge", out)
        verdicts = self.verdicts()
        self.assertEqual(len(verdicts), n)
        self.assertIn("0 to judge", self.run_tool("toy"))

        def verdict(line, becomes):
            found = verdicts[line, becomes]
            return found["result"], found["by"], found["how"]

        self.assertEqual(verdict("return x;", "return x == 7 ? 8 : x;"), ("alive", "", ""))
        self.assertEqual(verdict("if (x > high) return high;", ";"), ("killed by suite", "strong_test", "failed"))
        self.assertEqual(verdict("for (int i = 0; i < n; ++i) {", "for (int i = 0; i <= n; ++i) {"),
                         ("killed by own", "toy_test", "failed"), "AddressSanitizer sees a loop that goes one step too far")
        self.assertEqual(verdict("n /= 2;", ";"), ("killed by own", "toy_test", "time-out"), "it computes for ever")
        self.assertEqual(verdict("if (!ready) pause();", "if (ready) pause();"),
                         ("killed by own", "toy_test", "time-out"), "it waits for ever")
        for copy in [self.root, self.root / "build" / "mutate" / "tree"]:
            self.assertEqual((copy / "src/toy/toy.cc").read_text(), TOY)

        # After the test is improved, the surviving mutant is judged again.
        alive = self.run_tool("toy", "--alive")
        self.assertIn("return x == 7 ? 8 : x;", alive)
        test = self.root / "src/toy/toy_test.cc"
        test.write_text(test.read_text().replace("Clamp(5, 0, 10) == 5", "Clamp(7, 0, 10) == 7"))
        self.run_tool("toy", "--again")
        self.assertNotIn("return x == 7 ? 8 : x;", self.run_tool("toy", "--alive"))
        row = self.run_tool("--table").splitlines()[-1].split("|")
        self.assertEqual([row[1].strip(), row[9].strip()], ["toy", str(1 + self.same_objects())])

    def same_objects(self):
        return sum(json.loads(line)["result"] == "same object" for line in self.log.read_text().splitlines())

    def test_a_test_that_fails_by_itself_is_said(self):
        (self.root / "src/toy/toy_test.cc").write_text("int main() { return 1; }\n")
        done = subprocess.run(self.command("toy"), capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("toy_test fails without a mutant", done.stderr)


if __name__ == "__main__":
    unittest.main()
