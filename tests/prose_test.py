"""The prose is plain English (docs/words.md): comments, messages and pages hold to its words and lengths."""

import io
import os
import re
import tokenize

import rules

MAX_WORDS = 30  # of a sentence
MAX_MEAN_WORDS = 20  # of the sentences of a page
C_SUFFIXES = [".h", ".cc", ".cu", ".cuh", ".js"]
C_FOLDERS = ["include", "src", "fuzz", "bench", "tests"]
PYTHON_FOLDERS = ["tests", "tools", "bench", "models"]
COMMENT_OR_LITERAL = re.compile(r"//([^\n]*)|/\*(.*?)\*/|" + r'"((?:\\.|[^"\\\n])*)"', re.DOTALL)

BANNED = [
    # A proxy stands before a server in space; everything else means after.
    (re.compile(r"\bbehind\b(?! (?:a|the|your|another)? ?(?:TLS |reverse )?prox|Debian|nginx|Caddy)", re.IGNORECASE),
     "behind: write after"),
    (re.compile(r"(?<![Tt]here )(?<!if )\b(?:is|are|was|were|be) no (?!longer|more|less|fewer|later|earlier)[a-z]"),
     "is no: write is not a"),
    (re.compile(r"\bto be had\b"), "to be had: write available"),
    (re.compile(r"\blet(?:s)? go of\b"), "let go of: write release"),
    (re.compile(r"\bbut for\b"), "but for: write except"),
]
BANNED_OPENINGS = {"Of", "What", "Who", "Whoever", "Whatever", "Whose"}

# A dot that does not end a sentence.
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|vs|cf|no|etc|approx|Fig|Sec|Eq)\.")
SENTENCE_END = re.compile(r"(?<=[.?!])[\"')\]]*\s+(?=[\"'(\[*]*[A-Z`0-9])")


def words(sentence):
    """Formulas and code count as one word each."""
    text = re.sub(r"`[^`]*`", "code", sentence)
    return [word for word in text.split() if re.search(r"[A-Za-z]{1,}", word)]


def sentences(text):
    text = ABBREVIATION.sub(lambda found: found[0].replace(".", ""), text)
    return [part for part in SENTENCE_END.split(text) if part.strip()]


def problems_of(text, where, is_message=False):
    found = [f"{where}: {why}: {text.strip()[:90]}" for pattern, why in BANNED if pattern.search(text)]
    for sentence in sentences(text):
        first = sentence.split()[0].strip("`\"'(")
        if not is_message and first in BANNED_OPENINGS and not sentence.rstrip().endswith("?"):
            found.append(f"{where}: begins with {first}: {sentence.strip()[:90]}")
        if len(words(sentence)) > MAX_WORDS:
            found.append(f"{where}: {len(words(sentence))} words, at most {MAX_WORDS}: {sentence.strip()[:90]}")
    return found


def c_comments(text):
    """(line, comment) with comment lines that follow one another joined, and (line, message) for literals."""
    comments, messages, block, begin, last = [], [], [], 0, -2
    for match in COMMENT_OR_LITERAL.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match[3] is not None:
            if match[3].count(" ") >= 2:
                messages.append((line, match[3]))
            continue
        comment = match[1] if match[1] is not None else match[2]
        comment = comment.lstrip("/").strip()
        own_line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()].strip() == ""
        if own_line and line == last + 1 and block:
            block.append(comment)
        else:
            if block:
                comments.append((begin, " ".join(block)))
            block, begin = [comment], line
        last = line if own_line else -2
    if block:
        comments.append((begin, " ".join(block)))
    return comments, messages


def is_code(comment):
    return bool(re.match(r"(NOLINT|clang-format|IWYU|-{3,}|={3,})", comment))


def check_c(root):
    problems = []
    for path in rules.files(root, C_FOLDERS, C_SUFFIXES):
        comments, messages = c_comments(rules.read(os.path.join(root, path)))
        for line, comment in comments:
            if not is_code(comment):
                problems += problems_of(comment, f"{path}:{line}")
        if path.split(os.sep)[0] in ("include", "src") and "test" not in os.path.basename(path):
            for line, message in messages:
                problems += problems_of(message, f"{path}:{line}", is_message=True)
    return problems


def check_python(root):
    problems = []
    for path in rules.files(root, PYTHON_FOLDERS, [".py"]):
        text = rules.read(os.path.join(root, path))
        if path == os.path.join("tests", "prose_test.py"):
            continue
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        except (tokenize.TokenError, SyntaxError):
            continue
        for kind, content, begin, _, line in tokens:
            if kind == tokenize.COMMENT:
                problems += problems_of(content.lstrip("#! ").strip(), f"{path}:{begin[0]}")
            elif kind == tokenize.STRING and content.startswith(('"""', 'r"""')) and not line[: begin[1]].strip():
                for paragraph in re.split(r"\n\s*\n", content.strip('r"')):
                    prose = " ".join(line.strip() for line in paragraph.split("\n") if not line.startswith("    "))
                    problems += problems_of(prose, f"{path}:{begin[0]}")
    return problems


def pages(root):
    found = [name for name in os.listdir(root) if name.endswith(".md")]
    found += rules.files(root, ["docs", "src", "models", "bench"], [".md"])
    return sorted(set(found))


def paragraphs(markdown):
    """(line, text) of prose: no code, tables, headings or link targets."""
    block, begin, in_code = [], 0, False
    for number, line in enumerate(markdown.split("\n") + [""], 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
            line = ""
        is_item = re.match(r"\s*([-*]|\d+\.)\s+", line)
        prose = not in_code and line.strip() and not re.match(r"(\||#|    |<)", line)
        if (not prose or is_item) and block:
            yield begin, " ".join(block)
            block = []
        if prose:
            if not block:
                begin = number
            text = re.sub(r"^\s*([-*]|\d+\.)\s+", "", line)
            block.append(re.sub(r"\]\([^)]*\)", "]", text).strip())


def check_pages(root):
    problems = []
    for path in pages(root):
        if path == os.path.join("docs", "words.md"):
            continue
        lengths = []
        for line, text in paragraphs(rules.read(os.path.join(root, path))):
            problems += problems_of(text, f"{path}:{line}")
            lengths += [len(words(sentence)) for sentence in sentences(text)]
        mean = sum(lengths) / len(lengths) if lengths else 0
        if path.startswith("docs") and mean > MAX_MEAN_WORDS:
            problems.append(f"{path}: {mean:.1f} words a sentence, at most {MAX_MEAN_WORDS}")
    return problems


def check(root):
    return check_c(root) + check_python(root) + check_pages(root)


def self_test():
    long_sentence = "This sentence " + "goes on and on and on " * 6 + "here."
    bad = {
        "src/kv/a.cc": "// The row behind the last one.\n",
        "src/kv/b.cc": 'return Bad("a file is no model, sorry");\n',
        "src/kv/c.h": "// Of the heads, those that are kept.\n",
        "src/kv/d.h": "/// What the cache holds.\n",
        "src/kv/e.h": "// " + long_sentence + "\n",
        "src/kv/f.h": "// One sentence that goes on and on, and on and on, and on and on, and\n"
        "// on and on, and on and on, and on and on, and on and on, and on and on.\n",
        "tests/g.py": "# What follows is a list.\n",
        "docs/h.md": long_sentence + "\n",
        "docs/i.md": "Short. " + " ".join(["word"] * 25) + ".\n\n- " + " ".join(["word"] * 28) + ".\n",
        "README.md": "It is no engine.\n",
    }
    good = {
        "src/kv/a.cc": "// What does it hold?\nint a = 1;  // tokens\n",
        "src/kv/b.cc": 'return Bad("there is no model here");\n',
        "src/kv/c.h": "// A server behind a proxy. It is no longer there.\n",
        "docs/h.md": "# What it is\n\n| " + long_sentence + " |\n\n```\nbehind " + long_sentence + "\n```\n",
    }
    rules.tell_apart(check, bad, good)


if __name__ == "__main__":
    self_test()
    rules.finish(check(rules.ROOT), "prose is plain English")
