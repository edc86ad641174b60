"""Makes one-line mutants of C++ sources with regular expressions.

A mutant changes one place of one line and keeps the number of lines. Comments, strings, preprocessor lines, invariants
(DUO_CHECK, static_assert) and the values of named constants are not changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import typing

# Text that is not code: strings (raw ones first), characters, comments, preprocessor lines.
NOT_CODE = re.compile(
    r'R"(?P<delimiter>[^()\\\s]*)\(.*?\)(?P=delimiter)"'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<!\w)'(?:\\.|[^'\\\n])+'"
    r"|//[^\n]*|/\*.*?\*/"
    r"|^[ \t]*#(?:\\\n|[^\n])*",
    re.DOTALL | re.MULTILINE)
INVARIANT = re.compile(r"\b(?:DUO_CHECK|static_assert|GTEST_\w+)\(")
NAMED_CONSTANT = re.compile(r"^[ \t]*(?:inline |static )*constexpr [^;{]*[={][^;]*;", re.MULTILINE)

SWAPS = {
    "comparison": [(" < ", " <= "), (" <= ", " < "), (" > ", " >= "), (" >= ", " > "), (" == ", " != "), (" != ", " == ")],
    "logic": [(" && ", " || "), (" || ", " && ")],
    "arithmetic": [(" + ", " - "), (" - ", " + "), (" * ", " / "), (" / ", " * "), (" % ", " * "),
                   (" += ", " -= "), (" -= ", " += ")],
    "min/max": [("std::min(", "std::max("), ("std::max(", "std::min("), ("std::min<", "std::max<"),
                ("std::max<", "std::min<"), ("min_element(", "max_element("), ("max_element(", "min_element(")],
    "negation": [("return true;", "return false;"), ("return false;", "return true;")],
}
ONE_MORE = re.compile(r" [+-] 1(?![\w.'])")
NOT = re.compile(r"(?<![\w)\]])!(?=[\w(])")
INTEGER = re.compile(r"(?<![\w.'])(\d+)(?=[uUlL]*(?![\w.']))")
FLOAT = re.compile(r"(?<![\w.'])(\d+\.\d*)(?=f?(?![\w.']))")
IF = re.compile(r"\bif (?:constexpr )?\(")

PLACE = r"[\w:.>\-\[\]()*]+"
CALL = re.compile(r"(?!DUO_ASSIGN|return\b|if\b|for\b|while\b|switch\b)[\w:.>\-\[\]]+\(.*\);$")
ASSIGNMENT = re.compile(PLACE + r" (?:=|[-+*/|&^%]=|<<=|>>=) .*;$")
STEP = re.compile(r"(?:(?:\+\+|--)[\w.>\-\[\]]+|[\w.>\-\[\]]+(?:\+\+|--)|break|continue);$")
GUARD = re.compile(r"if \(.*;$")


@dataclasses.dataclass(frozen=True)
class Mutant:
    file: str
    line_number: int  # the first line is 1
    line: str  # without leading and trailing white space
    becomes: str
    operator: str
    twin: int = 0  # numbers equal changes of equal lines in one file

    @property
    def id(self) -> str:
        """Stays the same when the line moves within its file."""
        text = "\0".join([self.file, self.line, self.becomes, str(self.twin)])
        return hashlib.sha1(text.encode()).hexdigest()[:12]


def code_only(text: str) -> str:
    """The text with blanks in place of everything that is not code. Offsets do not change."""
    def blank(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match.group())

    code = NAMED_CONSTANT.sub(blank, NOT_CODE.sub(blank, text))
    for match in reversed(list(INVARIANT.finditer(code))):
        end = closing(code, match.end() - 1)
        code = code[:match.start()] + re.sub(r"[^\n]", " ", code[match.start():end]) + code[end:]
    return code


def closing(code: str, begin: int) -> int:
    """The offset after the parenthesis that closes the one at `begin`, or the end of the text when none does."""
    depth = 0
    for at in range(begin, len(code)):
        depth += {"(": 1, ")": -1}.get(code[at], 0)
        if depth == 0:
            return at + 1
    return len(code)


def changes(code: str, line: str, before: str) -> typing.Iterator[tuple[int, int, str, str]]:
    """Yields (begin, end, replacement, operator) for one line. `code` is the line without strings and comments.
    `before` is the code of the nearest line above that has any."""
    for operator, pairs in SWAPS.items():
        for old, new in pairs:
            if operator == "arithmetic" and '"' in line:
                continue  # the line may add strings
            for match in re.finditer(re.escape(old), code):
                if operator != "arithmetic" or not ONE_MORE.match(code, match.start()):
                    yield match.start(), match.end(), new, operator
    for match in ONE_MORE.finditer(code):
        yield match.start(), match.end(), "", "one more"
    for match in NOT.finditer(code):
        yield match.start(), match.end(), "", "negation"
    for match in IF.finditer(code):
        end = closing(code, match.end() - 1)
        condition = code[match.end():end - 1]
        several = " && " in condition or " || " in condition
        # A single comparison or `!x` is negated by its own operator.
        if end < len(code) and ";" not in condition and (several or not re.search(r"^!| (?:==|!=) ", condition)):
            yield match.end() - 1, end, "(!" + line[match.end() - 1:end] + ")", "negation"
    for match in INTEGER.finditer(code):
        if not ONE_MORE.match(code, match.start() - 3):
            yield match.start(), match.end(), str(int(match.group()) + 1), "constant"
    for match in FLOAT.finditer(code):
        value = float(match.group())
        yield match.start(), match.end(), "1.0" if value == 0 else f"{value * 1.03:.9g}", "constant"
    statement = code.strip()
    begins_anew = before.strip()[-1:] in ("", "{", "}", ";", ":") or before.strip().endswith("else")
    if begins_anew and statement.count("(") == statement.count(")") and statement.count("{") == statement.count("}"):
        if any(kind.match(statement) for kind in (CALL, ASSIGNMENT, STEP, GUARD)):
            begin = len(code) - len(code.lstrip())
            yield begin, len(code.rstrip()), ";", "removed"


def mutants_of(file: str, text: str) -> list[Mutant]:
    """All mutants of a source file, in the order of its lines."""
    found = []
    twins: dict[tuple[str, str], int] = {}
    before = ""
    lines = text.split("\n")
    for number, (code, line) in enumerate(zip(code_only(text).split("\n"), lines), 1):
        if not code.strip():
            continue
        seen = set()
        after = next((other for other in lines[number:] if other.strip()), "")
        for begin, end, replacement, operator in changes(code, line, before):
            if operator == "removed" and code.strip().startswith("if (") and after.strip().startswith("else"):
                continue
            old, new = line.strip(), (line[:begin] + replacement + line[end:]).strip()
            if new == old or new in seen:
                continue
            seen.add(new)
            twin = twins.get((old, new), 0)
            twins[old, new] = twin + 1
            found.append(Mutant(file, number, old, new, operator, twin))
        before = code
    return found


def apply(text: str, mutant: Mutant) -> str:
    """The text with the mutant's line instead of the original one."""
    lines = text.split("\n")
    line = lines[mutant.line_number - 1]
    if line.strip() != mutant.line:
        raise ValueError(f"{mutant.file}:{mutant.line_number}: expected the line '{mutant.line}'")
    lines[mutant.line_number - 1] = line[:len(line) - len(line.lstrip())] + mutant.becomes
    return "\n".join(lines)


def read_list(text: str, name: str) -> list[dict[str, str]]:
    """Reads blocks of `file:`, `line:`, `becomes:`, `reason:` with blank lines between them. Lines that begin with #
    are comments."""
    entries = []
    for block in re.split(r"\n\s*\n", text):
        rows = [row for row in block.split("\n") if row.strip() and not row.startswith("#")]
        if not rows:
            continue
        entry = {key.strip(): value.strip() for key, _, value in (row.partition(":") for row in rows)}
        if set(entry) != {"file", "line", "becomes", "reason"} or not all(entry[key] for key in ("file", "line", "reason")):
            raise ValueError(f"{name}: a block must have file, line, becomes and reason once each: {rows[0]}")
        entries.append(entry)
    return entries


def by_hand(entry: dict[str, str], text: str) -> Mutant:
    """The mutant that an entry of a list describes, at the first line with this text."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() == entry["line"]:
            return Mutant(entry["file"], number, entry["line"], entry["becomes"], "by hand")
    raise ValueError(f"{entry['file']}: no line is '{entry['line']}'")
