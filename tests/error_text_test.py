"""Error sentences are for people: no code decides by their text, and only the command line's sentences name flags.
A sentence is a format with its values (base/error.h)."""

import os
import re

import rules

SUFFIXES = [".h", ".cc", ".cu", ".cuh"]
LITERAL = r'"(?:\\.|[^"\\\n])*"'
# Together, since each may hold what looks like the other's beginning.
COMMENT_OR_LITERAL = re.compile(r"//[^\n]*|/\*.*?\*/|" + LITERAL, re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# A style sheet's own properties look like flags: var(--ink), --ink:#0f172a.
PROPERTY = re.compile(r"var\(--\w+\)|--\w+:#\w+")

TEXT = r"(?:\bmessage\(\)|\bwhat\(\)|(?:\.|->)message\b)"
SEARCHES = r"(?:find\w*|rfind|starts_with|ends_with|compare|substr|contains|front|back|at)\b"
DECIDES = re.compile(
    TEXT + r"\s*(?:\.\s*" + SEARCHES + r"|\[)"  # message().find("x"), message()[0]
    r"|" + TEXT + r"\s*[=!]="  # message() == "x"
    r"|[=!]=\s*[\w.>()*-]*" + TEXT +  # "x" == status.message()
    r"|\b(?:regex_(?:search|match)|strstr|strn?cmp)\s*\([^;{]*" + TEXT +
    r"|string_view\s*[({][^;{]*" + TEXT + r"(?:\.c_str\(\))?\s*[)}]\s*\.\s*" + SEARCHES)


# Uses of a message that decide nothing, with the reason.
ALLOWED = {
    "src/server/session_store.cc": ".message.find",  # removes the server's folder from a text for clients
}


# The beginnings of calls that make a Status, up to the opening parenthesis.
BY_CODE = re.compile(r"\bStatus(?:\s+\w+)?\((?=\s*StatusCode::k\w+,)")
BY_FORMAT = re.compile(r"\b(?:InvalidArgument|NotFound|Corrupt|Unsupported|ResourceExhausted|IoError|UnavailableError"
                       r"|Internal|BadOption)\(")
JOINS = re.compile(r"\+|\bto_string\b|\bfmt::format\b")
NUMBER_TEXT = re.compile(r"\bto_string\b")
LITERAL_OR_PARENTHESIS = re.compile(LITERAL + r"|'(?:\\.|[^'\\])'|[()]")


def is_test(path):
    return "test" in os.path.basename(path)


def literals(text):
    return [found for found in COMMENT_OR_LITERAL.findall(text) if found.startswith('"')]


def without_comments(text):
    return COMMENT_OR_LITERAL.sub(lambda found: found[0] if found[0].startswith('"') else " ", text)


def flags_in_library(root):
    problems = []
    for path in rules.files(root, ["include", "src"], SUFFIXES):
        parts = path.split(os.sep)
        if parts[1] == "cli" or is_test(path):
            continue
        for literal in literals(rules.read(os.path.join(root, path))):
            for flag in FLAG.findall(PROPERTY.sub("", literal)):
                problems.append(f"{path}: {flag} is a flag of the command line; the status's subject names the option")
    return problems


def decisions_by_text(root):
    problems = []
    for path in rules.files(root, ["include", "src", "tools", "bench"], SUFFIXES):
        if is_test(path):
            continue
        for match in DECIDES.finditer(without_comments(rules.read(os.path.join(root, path)))):
            if ALLOWED.get(path.replace(os.sep, "/")) == match.group(0):
                continue
            problems.append(f"{path}: {match.group(0)}: code reads a status's code and subject, never its sentence")
    return problems


def arguments(text, begin):
    """The code, without its literals, of the call whose opening parenthesis ends at `begin`."""
    code, depth, at = [], 1, begin
    for found in LITERAL_OR_PARENTHESIS.finditer(text, begin):
        code.append(text[at:found.start()])
        at = found.end()
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            break
    return " ".join(code)


def joined_sentences(root):
    problems = []
    for path in rules.files(root, ["include", "src"], SUFFIXES):
        if is_test(path) or path == os.path.join("src", "base", "error.h"):
            continue
        text = without_comments(rules.read(os.path.join(root, path)))
        for beginning, wrong in [(BY_CODE, JOINS), (BY_FORMAT, NUMBER_TEXT)]:
            for match in beginning.finditer(text):
                if wrong.search(arguments(text, match.end())):
                    line = text.count("\n", 0, match.start()) + 1
                    problems.append(f"{path}:{line}: a sentence is a format with its values (base/error.h)")
    return problems


def check(root):
    return flags_in_library(root) + decisions_by_text(root) + joined_sentences(root)


def self_test():
    bad = {
        "src/kv/a.cc": 'Status f() { return Bad("use --device cpu"); }\n',
        "src/server/b.cc": 'const char* kHelp = "a smaller --chunk helps";\n',
        "src/server/url.cc": 'const char* kHelp = "http://localhost; --port takes another";\n',
        "include/duo/c.h": 'inline const char* Text() { return "(--sparsity)"; }\n',
        "src/cli/d.cc": 'if (s.message().find("is no task") != npos) f();\n',
        "src/cli/e.cc": 'if (windows.status().message().starts_with("a text of")) f();\n',
        "src/server/f.cc": 'if (status.message() == "stopping") f();\n',
        "src/server/g.cc": 'if ("stopping" == status.message()) f();\n',
        "src/eval/h.cc": "if (std::regex_search(status.message(), pattern)) f();\n",
        "src/eval/i.cc": 'if (std::string_view(e.what()).find("x") != npos) f();\n',
        "src/eval/j.cc": 'if (std::strstr(e.what(), "x")) f();\n',
        "src/kv/l.cc": 'Status f() { return Unsupported("{}: use --device cpu", path); }\n',
        "src/text/m.cc": 'Status f() { return Status(StatusCode::kCorrupt, path + ": (a) is broken"); }\n',
        "src/text/n.cc": 'Status status(StatusCode::kIo, fmt::format("{}: gone", path));\n',
        "src/text/o.cc": 'return Corrupt("{} (of {})", path, std::to_string(n));\n',
        "src/text/p.cc": 'return BadOption("sink", std::to_string(sink), "0 or more");\n',
        "src/server/k.cc": 'if (error->message.rfind("x", 0) == 0) f();\n',
        "src/eval/l.cc": "if (status.message()[0] == 'x') f();\n",
    }
    good = {
        "src/kv/good.cc": '// use --device cpu\nPrint(status.message()); error.message = "a" + status.message();\n',
        "src/kv/good_test.cc": 'EXPECT_NE(status.message().find("--x"), npos);\n',
        "src/cli/good.cc": 'Print("--device: " + status.message());\n',
        "src/server/good.cc": 'if (message.find("role") == message.end() || !s.message().empty()) n--; --m;\n',
        "src/text/good.cc": 'if (a + b > 0) return Corrupt("a + b in {}: {}", path, a + b); Status s(StatusCode::kIo, x);',
        "src/eval/style.cc": '"{--ink:#0f172a;color:var(--ink)}"\n',
    }
    rules.tell_apart(check, bad, good)


if __name__ == "__main__":
    self_test()
    rules.finish(check(rules.ROOT), "errors are values, and their sentences are for people")
