"""Tests `duo chat --url`, a conversation with a server. Usage: serve_chat_test.py PATH/TO/duo [unittest arguments]"""

import json
import tempfile
import unittest

import cli_harness
from serve_harness import Server


class ChatTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.key = cls.folder.name + "/key"
        with open(cls.key, "w") as file:
            file.write("open-sesame\n")
        cls.server = Server(cls.folder.name, "--chat-template", "chatml", "--compute", "f32", "--snapshot-every", 64,
                            "--api-key-file", cls.key)
        cls.url = "http://127.0.0.1:%d" % cls.server.port

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        cls.folder.cleanup()
        assert code == 0, code

    def chat(self, text, *flags, url=None):
        return cli_harness.duo("chat", "--url", url or self.url, "--api-key-file", self.key, "--temperature", 0,
                               "--max-tokens", 8, *flags, stdin=text)

    def test_answers_are_the_servers(self):
        hello = "hello " * 100  # longer than the distance of snapshots: f32 reuses up to one
        run = self.chat(hello + "\nand then?\n", "--json")
        self.assertEqual(run.code, 0, run.err)
        chat = run.json()
        self.assertEqual([m["role"] for m in chat["messages"]], ["user", "assistant"] * 2)
        body = {"messages": chat["messages"][:1], "max_tokens": 8, "temperature": 0}
        headers = {"Authorization": "Bearer open-sesame", "Content-Type": "application/json"}
        answer = self.server.request("POST", "/v1/chat/completions", body, headers).json()
        self.assertEqual(answer["choices"][0]["message"]["content"], chat["messages"][1]["content"])
        self.assertEqual(chat["turns"][0]["finish"], "length")
        self.assertGreater(chat["turns"][1]["reused_tokens"], 0)
        plain = self.chat(hello + "\n", url=self.url + "/v1/")
        self.assertEqual(plain.out, chat["messages"][1]["content"] + "\n")

    def test_system_prompt_and_commands(self):
        saved = self.folder.name + "/talk.json"
        run = self.chat("one\n/undo\ntwo\n/save %s\n" % saved, "--system", "Be brief.")
        self.assertEqual(run.code, 0, run.err)
        with open(saved) as file:
            messages = json.load(file)
        self.assertEqual([m["content"] for m in messages[:2]], ["Be brief.", "two"])
        self.assertEqual(len(messages), 3)

    def test_flags_go_along(self):
        run = self.chat("hello\n", "--sparsity", 0.75, "--recent", 8, "--json")
        self.assertEqual(run.code, 0, run.err)
        headers = {"Authorization": "Bearer open-sesame"}
        kept = self.server.request("GET", "/v1/status", headers=headers).json()["sequences"]
        self.assertIn(0.75, [s["sparsity"] for s in kept])

    def test_what_goes_wrong_is_said(self):
        def sentence(run, code=1):
            self.assertEqual(run.code, code, run.err)
            return run.err

        self.assertIn("is `duo serve` running there?", sentence(self.chat("a\n", url="http://127.0.0.1:1")))
        self.assertIn("expected http://HOST:PORT", sentence(self.chat("a\n", url="ftp://x"), 2))
        self.assertIn("excludes --model", sentence(self.chat("a\n", "--model", "demo"), 2))
        with open(self.folder.name + "/wrong", "w") as file:
            file.write("wrong\n")
        run = cli_harness.duo("chat", "--url", self.url, "--api-key-file", self.folder.name + "/wrong", stdin="a\n")
        self.assertIn("API key", sentence(run))
        self.assertIn("sink", sentence(self.chat("a\n", "--sink", 99999999999), 2))


if __name__ == "__main__":
    cli_harness.main()
