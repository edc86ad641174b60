"""A model's file that changes while a program has it mapped. Usage: changed_model_test.py DUO"""

import os
import shutil

from cli_harness import HANG_SECONDS, MODEL, CliTest, main, start
from serve_harness import ENDLESS, Server

TEXT = "/v1/completions"
SHORT = {"prompt": "The cow", "max_tokens": 2}


class ChangedModelTest(CliTest):
    def setUp(self):
        super().setUp()
        self.model = self.dir / "model"
        shutil.copytree(MODEL, self.model)
        self.weights = self.model / "model.safetensors"

    def server(self, *flags):
        server = Server(self.dir, *flags, model=self.model, pattern="none")
        self.addCleanup(server.stop)
        server.post(TEXT, SHORT)
        return server

    def refuses(self, server, words):
        for stream in (False, True):
            answer = server.request("POST", TEXT, {**SHORT, "stream": stream})
            self.assertEqual(answer.status, 503, answer.body)
            error = answer.error()
            self.assertEqual((error["type"], error["code"]), ("server_error", "model_changed"))
            self.assertIn(str(self.weights), error["message"])
            self.assertIn(words, error["message"])
        health = server.request("GET", "/health")
        self.assertEqual((health.status, health.json()["status"]), (503, "model changed"))

    def test_a_file_written_to_is_refused_until_the_server_starts_again(self):
        server = self.server()
        stat = os.stat(self.weights)
        data = bytearray(self.weights.read_bytes())
        with open(self.weights, "r+b") as file:
            file.seek(len(data) // 2)
            file.write(bytes(64))
        self.refuses(server, "was written to")
        self.weights.write_bytes(data)
        os.utime(self.weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        self.refuses(server, "was written to")
        self.assertEqual(server.stop(), 0)

    def test_a_running_answer_ends_with_an_error(self):
        server = self.server()
        stream = server.stream(body=ENDLESS)
        stream.next()
        os.utime(self.weights)
        stream.read_all()
        self.assertIn("was written to", stream.events[-1]["error"]["message"])
        self.assertFalse(stream.done)

    def test_what_a_mixture_of_weights_computed_is_not_saved(self):
        sessions = self.dir / "sessions"
        sessions.mkdir()
        server = self.server("--session-dir", sessions, "--autosave")
        server.complete("The cow", 2, duo={"cache": "before"})
        stream = server.stream(body={**ENDLESS, "duo": {"ignore_eos": True, "cache": "meanwhile"}})
        stream.next()
        os.utime(self.weights)
        stream.read_all()
        self.assertIn("error", stream.events[-1])
        self.assertEqual(server.stop(), 0)
        saved = [path.name for path in sessions.rglob("*.session")]
        self.assertEqual(saved, ["before.session"])

    def test_a_replaced_file_is_refused_and_a_removed_one_is_served(self):
        server = self.server()
        other = self.dir / "other"
        shutil.copy(self.weights, other)
        self.weights.unlink()
        server.post(TEXT, SHORT)
        os.replace(other, self.weights)
        self.refuses(server, "is another file")

    def test_a_cut_file_ends_a_program_with_a_sentence(self):
        server = self.server()
        with open(self.weights, "r+b") as file:
            file.truncate(4096)
        self.refuses(server, "was written to")
        # A run that has already begun reads the missing pages, which raises SIGBUS.
        shutil.copy(MODEL / "model.safetensors", self.weights)
        chat = start("generate", "--model", self.model, "--prompt", "The cow", "--max-tokens", 30000, "--ignore-eos")
        chat.stdout.read(1)
        with open(self.weights, "r+b") as file:
            file.truncate(4096)
        _, err = chat.communicate(timeout=HANG_SECONDS)
        self.assertEqual(chat.returncode, 1, err)
        last = err.decode().strip().splitlines()[-1]
        self.assertTrue(last.startswith("duo: error: " + str(self.weights)), last)
        self.assertRegex(last, "SIGBUS|was written to")


if __name__ == "__main__":
    main()
