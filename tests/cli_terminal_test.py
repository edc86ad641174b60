"""Tests the `duo` program on a terminal. Usage: cli_terminal_test.py PATH/TO/duo"""

import os
import pty
import select
import signal
import unittest

import cli_harness
from cli_harness import HANG_SECONDS, LLAMA2_TEMPLATE, CliTest, main


class Terminal:
    """A run of duo with a pseudo-terminal as its controlling terminal."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(cli_harness.DUO, [cli_harness.DUO, *[str(a) for a in args]])
        self.seen = b""

    def read(self):
        """The next bytes of the output, or b"" at its end."""
        ready, _, _ = select.select([self.fd], [], [], HANG_SECONDS)
        if not ready:
            raise AssertionError("no more output after %r" % self.seen[-500:])
        try:
            return os.read(self.fd, 65536)
        except OSError:  # Linux: the other side is closed
            return b""

    def expect(self, text):
        """Waits for `text` and returns what came before it."""
        while text not in self.seen:
            more = self.read()
            if not more:
                raise AssertionError("%r never came: %r" % (text, self.seen[-500:]))
            self.seen += more
        before, _, self.seen = self.seen.partition(text)
        return before

    def send(self, data):
        os.write(self.fd, data)

    def end(self):
        """The rest of the output and the exit code."""
        while True:
            more = self.read()
            if not more:
                break
            self.seen += more
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return self.seen, os.waitstatus_to_exitcode(status)


class TerminalTest(CliTest):
    @classmethod
    def setUpClass(cls):
        try:
            ends = pty.openpty()
        except OSError as error:
            print("SKIPPED: no pseudo-terminal: %s" % error)
            raise unittest.SkipTest("no pseudo-terminal")
        for end in ends:
            os.close(end)

    def test_progress_bar_shows_rate_memory_and_time_left_and_goes_away(self):
        ids = self.ids(30000)
        # Slow enough for a bar on any machine. All heads stream, so that it ends soon under a sanitizer too.
        few = ["--chunk", 4, "--threads", 1, "--max-tokens", 2, "--pattern", "demo", "--sparsity", 1]
        terminal = Terminal("generate", "--model", "demo", "--ids", ids, *few)
        terminal.expect(b"prefill")
        shown = terminal.expect(b" left")
        for part in [b"/30,000 tokens", b"tokens/s", b"KV "]:
            self.assertIn(part, shown)
        rest, code = terminal.end()
        self.assertEqual(code, 0)
        self.assertIn(b"\r\x1b[K", rest)
        self.assertIn(b"duo: prompt 30,000 tokens", rest)

    def test_text_on_a_terminal_ends_its_line(self):
        rest, code = Terminal("generate", "--model", "demo", "--prompt", "The", "--max-tokens", 1).end()
        self.assertEqual(code, 0)
        self.assertIn(b"\r\nduo: prompt", rest)

    def start_answer(self, terminal):
        """Asks a question, and returns when the answer has begun."""
        terminal.send(b"The cow\n")
        terminal.expect(b"The cow\r\n")  # the terminal's echo
        while not terminal.seen:
            terminal.seen += terminal.read()

    def test_chat(self):
        model = self.model_with_template(LLAMA2_TEMPLATE)
        terminal = Terminal("chat", "--model", model, "--max-tokens", 30000, "--temperature", 1)
        terminal.expect(b"Llama 2 template")
        terminal.expect(b"> ")
        terminal.send(b"/nonsense\n")
        terminal.expect(b"duo: error:")
        terminal.expect(b"> ")
        self.start_answer(terminal)
        terminal.send(b"\x03")  # Ctrl-C: this answer ends, the conversation continues
        terminal.expect(b"\r\n> ")
        terminal.send(b"/undo\n")
        terminal.expect(b"> ")
        terminal.send(b"/quit\n")
        rest, code = terminal.end()
        self.assertEqual(code, 0)
        self.assertNotIn(b"error", rest)

    def test_ctrl_c_at_the_prompt_leaves(self):
        model = self.model_with_template(LLAMA2_TEMPLATE)
        terminal = Terminal("chat", "--model", model)
        terminal.expect(b"> ")
        terminal.send(b"\x03")
        self.assertEqual(terminal.end()[1], 0)

    def test_sigterm_during_an_answer_leaves(self):
        model = self.model_with_template(LLAMA2_TEMPLATE)
        terminal = Terminal("chat", "--model", model, "--max-tokens", 30000, "--temperature", 1)
        terminal.expect(b"> ")
        self.start_answer(terminal)
        os.kill(terminal.pid, signal.SIGTERM)
        self.assertEqual(terminal.end()[1], 0)


if __name__ == "__main__":
    main()
