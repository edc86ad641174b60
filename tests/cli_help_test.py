"""Tests the help of the `duo` program, and the names of its flags. Usage: cli_help_test.py PATH/TO/duo"""

import re

from cli_harness import CliTest, duo, main


def section_of_verbs(text):
    return "".join(re.findall(r"(?ms)^(?:Verbs|VERBS|Subcommands):\n(.*?)(?:\n\n|\Z)", text))


def flag_types(text):
    """{flag: type} of a help text. The type is what stands after the flag's name: "N", "PATH", "f32|bf16", or "" for a
    flag without a value. A default, and the flags that it needs or excludes, are left out."""
    found = re.findall(r"(?m)^  (?:-\w,)?(--[a-z-]+)(?: ([^\s=]+))?", text)
    return {flag: "" if kind in ("REQUIRED", "Needs:", "Excludes:") else kind for flag, kind in found}


def problems_of_types(types):
    """`types` maps flags to {type: verb}. Names that choose may be a part of another verb's."""
    problems = []
    for flag, kinds in sorted(types.items()):
        choices = {kind for kind in kinds if re.fullmatch(r"[a-z0-9]+(\|[a-z0-9]+)+", kind)}
        widest = max(choices, key=len, default="")
        others = kinds.keys() - {kind for kind in choices if set(kind.split("|")) <= set(widest.split("|"))}
        if len(others) + (1 if choices else 0) > 1:
            problems.append(f"{flag} has the types {kinds}")
    return problems


class HelpTest(CliTest):
    def test_version(self):
        self.assertRegex(self.ok("--version").out, r"^duo \d+\.\d+\.\d+\n$")

    def test_help_lists_every_verb(self):
        for args in [["help"], ["--help"]]:
            text = self.ok(*args).out
            for verb in ["demo", "generate", "chat", "logits", "pattern", "identify", "plan", "bench", "quantize"]:
                self.assertRegex(text, r"(?m)^ +%s +\S" % verb)

    def test_each_verb_has_help_with_an_example(self):
        for verb in ["demo", "generate", "chat", "logits", "pattern", "identify", "plan", "bench", "quantize"]:
            text = self.ok(verb, "--help").out
            self.assertIn("Example", text)
            self.assertIn("duo " + verb, text)
            self.assertEqual(self.ok("help", verb).out, text)

    def test_each_help_line_is_a_sentence_that_stands_alone(self):
        def check(verb):
            text = self.ok(*verb, "--help").out
            lines = dict(re.findall(r"(?m)^  (-\S.*?)(?:  +|\n {10,})(\S.*)$", text))
            self.assertGreaterEqual(len(lines), 1, text)
            verbs = dict(re.findall(r"(?m)^  (\w+) +(\S.*)$", section_of_verbs(text)))
            for name, line in {**lines, **verbs}.items():
                self.assertRegex(line, r"^([A-Z0-9]|[a-z]+:).*\.$", f"duo {' '.join(verb)}: {name}")
                self.assertNotRegex(line, r"^(Of|What|Or|For|The same)\b", f"duo {' '.join(verb)}: {name}")
            for name in verbs:
                check([*verb, name])

        check([])

    def test_nothing_and_unknown_verbs_are_usage_errors(self):
        run = duo()
        self.assertEqual(run.code, 2)
        self.assertEqual(run.out, "")
        self.assertIn("generate", run.err)
        self.fails(2, "frobnicate", "frobnicate")

    def test_each_flag_has_one_type(self):
        types = {}

        def collect(verb):
            text = self.ok(*verb, "--help").out
            for flag, kind in flag_types(text).items():
                types.setdefault(flag, {}).setdefault(kind, " ".join(verb))
            for name in re.findall(r"(?m)^  (\w+) ", section_of_verbs(text)):
                collect([*verb, name])

        collect([])
        self.assertGreater(len(types), 100)
        self.assertEqual((types["--depths"], types["--json"].keys()), ({"A,B,..": "bench"}, {""}))
        self.assertEqual(problems_of_types(types), [])

    def test_the_rule_of_types_finds_faults(self):
        text = "Flags:\n  -h,--help                   Print.\n  --depths A,B,..=0,4         Depths.\n"
        self.assertEqual(flag_types(text), {"--help": "", "--depths": "A,B,.."})
        text = "  --ask TEXT ... Needs: --text-file\n  --out PATH REQUIRED  Place.\n  --resume Excludes: --x\n"
        self.assertEqual(flag_types(text), {"--ask": "TEXT", "--out": "PATH", "--resume": ""})
        good = {"--weights": {"native|int8|int4": "plan", "int8|int4": "quantize"}, "--seed": {"N": "demo"}}
        self.assertEqual(problems_of_types(good), [])
        for kinds in [{"N": "a", "A,B,..": "b"}, {"N": "a", "": "b"}, {"int8|int4": "a", "N": "b"},
                      {"int8|int4": "a", "f32|int8|bf16": "b"}]:  # fmt: skip
            self.assertEqual(len(problems_of_types({"--x": kinds})), 1, kinds)


class OldNameTest(CliTest):
    """A flag's name of an earlier version works. The help does not show it, and a note names the new one."""

    NIAH = ["eval", "niah", "--model", "demo", "--lengths", 300]
    IDENTIFY = ["identify", "--model", "demo", "--threads", 1]

    def assert_note(self, verb, old, new, values=(1,), needle=""):
        args = [old, values[0]]
        run = self.ok(*verb, *args)
        self.assertEqual(run.err.count(f"duo: {old} is now {new}; a later version will not know the old name\n"), 1)
        self.assertIn(needle, run.out + run.err)
        self.assertNotIn(new + " is now", self.ok(*verb, new, values[0]).err)
        n_words = next((i for i, word in enumerate(verb) if str(word).startswith("-")), len(verb))
        text = self.ok(*verb[:n_words], "--help").out
        self.assertRegex(text, rf"(?m)^  {new} ")
        self.assertNotRegex(text, rf"(?m)^  {old} ")
        return run

    def test_niah(self):
        run = self.assert_note([*self.NIAH, "--n-texts", 1], "--depths", "--needle-depths", ["0.25"])
        self.assertIn("25 %", run.out)
        run = self.assert_note([*self.NIAH, "--needle-depths", "0.5"], "--texts", "--n-texts", [3])
        self.assertIn("3 prompts", run.out)

    def test_demo(self):
        text = self.file("text.txt", "The secret code of Anna is 48213. " + "The cow grows the golden field. " * 20)
        run = self.assert_note(["demo", "--ask", "What is the secret code of Anna?"], "--text", "--text-file", [text])
        self.assertIn("48213", run.out)

    def test_identify(self):
        out = ["--out", self.dir / "out"]
        profile = [*self.IDENTIFY, "--method", "profile"]
        self.assert_note([*profile, "--max-length", 200, *out], "--texts", "--n-texts", [1])
        self.assert_note([*profile, "--n-texts", 1, *out], "--max-tokens", "--max-length", [200])
        text = self.file("long.txt", "The quick brown fox jumps over the lazy dog, and so on. " * 300)
        data = ["--text", text, "--passkeys", 2, "--words", 2, "--sink", 8, "--recent", 32, "--steps", 1]
        learn = [*self.IDENTIFY, *data, "--max-length", 200, *out]
        self.assert_note(learn, "--min-tokens", "--min-length", [100])
        self.assert_note(learn, "--lengths", "--n-lengths", [3])
        self.assert_note(learn, "--depths", "--n-depths", [7])
        recipe = (self.dir / "out" / "config.json").read_text()
        self.assertRegex(recipe, r'"depth_ratio_num_intervals": 7\b')

    def test_a_bad_value_and_both_names_are_errors_that_name_the_new_flag(self):
        self.fails(2, "--n-depths", "identify", "--model", "demo", "--out", self.dir / "x", "--depths", "0.1,0.5")
        self.fails(2, "--n-depths", "identify", "--model", "demo", "--out", self.dir / "x", "--depths")
        self.fails(2, "--n-texts", *self.NIAH, "--texts", 1, "--n-texts", 2)
        self.fails(2, "--depths", "eval", "perplexity", "--model", "demo", "--depths", "0.5")


if __name__ == "__main__":
    main()
