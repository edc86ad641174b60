"""Runs the `duo` program on the embedded model for its behaviour tests. Time limits only end runs that hang."""

import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

DUO = ""
SOURCE = pathlib.Path(__file__).resolve().parent.parent
MODEL = SOURCE / "models" / "demo"
HANG_SECONDS = 600

FACTS = (
    "The muddy horse feeds the golden field. The farmer grows the cow.\n"
    "The secret code of Anna is 48213. The cow harvests the ripe plow.\n"
    "The secret code of Boris is 70956. The barn feeds the golden field.\n"
)
QUESTION = FACTS + "\nWhat is the secret code of Anna?\nAnswer: "

LLAMA2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


class Run:
    """The result of one run of duo: the exit code, and both streams as text."""

    def __init__(self, process):
        self.code = process.returncode
        self.out = process.stdout.decode("utf-8", errors="surrogateescape")
        self.err = process.stderr.decode("utf-8", errors="surrogateescape")

    def json(self):
        return json.loads(self.out)


def duo(*args, stdin=b"", cwd=None):
    if isinstance(stdin, str):
        stdin = stdin.encode()
    command = [DUO, *[str(a) for a in args]]
    return Run(subprocess.run(command, input=stdin, capture_output=True, timeout=HANG_SECONDS, cwd=cwd))


def start(*args):
    command = [DUO, *[str(a) for a in args]]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_safetensors(path):
    """{name: (dtype, shape, values)} of a file with F32 and I64 tensors."""
    data = pathlib.Path(path).read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + n + begin : 8 + n + end]
        code = {"F32": "f", "I64": "q"}[entry["dtype"]]
        values = struct.unpack("<%d%s" % (len(raw) // struct.calcsize(code), code), raw)
        tensors[name] = (entry["dtype"], entry["shape"], values)
    return tensors


def catches_sigint(process):
    """Whether the process has a handler for SIGINT now. None when the process has ended."""
    try:
        status = pathlib.Path("/proc/%d/status" % process.pid).read_text()
    except OSError:
        return None
    mask = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask[0], 16) >> (signal.SIGINT - 1) & 1) if mask else None


def wait_for_handler(process, expected):
    """Waits until catches_sigint() is `expected`. False when the process ended first."""
    end = time.monotonic() + HANG_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        if catches_sigint(process) == expected:
            return True
        time.sleep(0.0005)
    raise AssertionError("duo never reached the expected state")


class CliTest(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="duo_cli_test_"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def ok(self, *args, **kwargs):
        run = duo(*args, **kwargs)
        self.assertEqual(run.code, 0, "duo %s: %s" % (" ".join(map(str, args)), run.err))
        return run

    def fails(self, code, needles, *args, **kwargs):
        run = duo(*args, **kwargs)
        what = "duo %s\nstderr: %s" % (" ".join(map(str, args)), run.err)
        self.assertEqual(run.code, code, what)
        last = run.err.strip().splitlines()[-1]
        self.assertTrue(last.startswith("duo: error: "), what)
        for needle in [needles] if isinstance(needles, str) else needles:
            self.assertIn(needle, last, what)
        self.assertEqual(run.out, "", what)
        return run

    def file(self, name, content):
        path = self.dir / name
        path.write_text(content) if isinstance(content, str) else path.write_bytes(content)
        return path

    def ids(self, n, name="ids.json"):
        """n token ids of the demo model, starting with begin-of-text."""
        return self.file(name, json.dumps([1022] + [(7 * i) % 1000 for i in range(1, n)]))

    def model_with_template(self, template):
        """The demo model with this chat template."""
        model = self.dir / "chat_model"
        model.mkdir()
        for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]:
            os.symlink(MODEL / name, model / name)
        config = json.loads((MODEL / "tokenizer_config.json").read_text())
        if template is not None:
            config["chat_template"] = template
        (model / "tokenizer_config.json").write_text(json.dumps(config))
        return model


def main():
    """The main function of test programs. Their arguments are PATH/TO/duo [unittest arguments]."""
    global DUO
    if len(sys.argv) < 2:
        sys.exit("usage: %s PATH/TO/duo [unittest arguments]" % sys.argv[0])
    DUO = os.path.abspath(sys.argv.pop(1))
    unittest.main(module="__main__")
