"""Tests `duo serve` with OpenAI's own Python client. Usage: serve_openai_test.py PATH/TO/duo [unittest arguments]

It needs the package openai, else it prints SKIPPED."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

import cli_harness
from cli_harness import MODEL, QUESTION

try:
    import openai
except ImportError:
    openai = None

KEY = "sesame-openai"


class OpenAiClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(cls.folder.name)
        (folder / "key").write_text(KEY + "\n")
        command = [cli_harness.DUO, "serve", "--model", MODEL, "--pattern", MODEL / "pattern", "--sparsity", "0.5"]
        command += ["--chat-template", "chatml", "--compute", "f32", "--api-key-file", folder / "key", "--port", "0"]
        command += ["--port-file", folder / "port"]
        cls.log = open(folder / "log", "wb")
        cls.server = subprocess.Popen([str(part) for part in command], stderr=cls.log)
        while not (folder / "port").exists():
            if cls.server.poll() is not None:
                raise AssertionError((folder / "log").read_text())
            time.sleep(0.02)
        cls.url = "http://127.0.0.1:%s/v1" % (folder / "port").read_text().strip()
        cls.client = openai.OpenAI(base_url=cls.url, api_key=KEY, max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.server.terminate()
        code = cls.server.wait()
        cls.log.close()
        cls.folder.cleanup()
        assert code == 0, code

    def generate(self, prompt, max_tokens):
        run = cli_harness.duo("generate", "--model", MODEL, "--pattern", MODEL / "pattern", "--sparsity", "0.5",
                              "--compute", "f32", "--prompt", prompt, "--max-tokens", max_tokens, "--json")
        self.assertEqual(run.code, 0, run.err)
        return run.json()["text"]

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["demo"])
        self.assertEqual(self.client.models.retrieve("demo").owned_by, "duo")

    def test_completion(self):
        answer = self.client.completions.create(model="demo", prompt=QUESTION, max_tokens=5, temperature=0)
        self.assertEqual(answer.choices[0].text, "48213")
        self.assertEqual(answer.choices[0].text, self.generate(QUESTION, 5))
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 5)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + 5)

    def test_completion_streams(self):
        stream = self.client.completions.create(model="demo", prompt=QUESTION, max_tokens=12, temperature=0, stream=True,
                                                stop=["\n"], stream_options={"include_usage": True})
        chunks = list(stream)
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), "48213")
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop")
        self.assertEqual(chunks[-1].choices, [])
        self.assertGreaterEqual(chunks[-1].usage.completion_tokens, 5)

    def test_log_probs_and_echo(self):
        answer = self.client.completions.create(model="demo", prompt="The cow", max_tokens=2, temperature=0, logprobs=2,
                                                echo=True)
        probs = answer.choices[0].logprobs
        self.assertTrue(answer.choices[0].text.startswith("The cow"))
        self.assertIsNone(probs.token_logprobs[0])
        self.assertTrue(all(p <= 0 for p in probs.token_logprobs[1:]))
        self.assertEqual(len(probs.tokens), answer.usage.prompt_tokens + 2)
        self.assertEqual(probs.token_logprobs[-1], max(probs.top_logprobs[-1].values()), "greedy")

    def test_chat(self):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
        answer = self.client.chat.completions.create(model="demo", messages=messages, max_completion_tokens=6,
                                                     temperature=0, logprobs=True, top_logprobs=3)
        message = answer.choices[0].message
        self.assertEqual(message.role, "assistant")
        self.assertGreater(len(message.content), 0)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), answer.usage.completion_tokens)
        self.assertTrue(all(len(token.top_logprobs) == 3 for token in content))
        self.assertEqual(content[0].logprob, content[0].top_logprobs[0].logprob)
        stream = self.client.chat.completions.create(model="demo", messages=messages, max_tokens=6, temperature=0,
                                                     stream=True)
        deltas = [chunk.choices[0].delta for chunk in stream]
        self.assertEqual(deltas[0].role, "assistant")
        self.assertEqual("".join(delta.content or "" for delta in deltas), message.content)

    def test_second_question_reuses_the_first(self):
        text = "The farmer grows the cow. " * 200
        first = self.client.completions.create(model="demo", prompt=text + "Who?", max_tokens=2, temperature=0)
        second = self.client.completions.create(model="demo", prompt=text + "What?", max_tokens=2, temperature=0)
        self.assertGreaterEqual(second.usage.prompt_tokens_details.cached_tokens, first.usage.prompt_tokens // 2)

    def test_fields_of_our_own(self):
        answer = self.client.completions.create(model="demo", prompt=QUESTION, max_tokens=5, temperature=0,
                                                extra_body={"duo": {"pattern": "none"}})
        self.assertEqual(answer.duo["sparsity"], 0)
        self.assertEqual(answer.choices[0].text, "48213")

    def test_seeds(self):
        def draw(seed):
            return self.client.completions.create(model="demo", prompt="The", max_tokens=24, temperature=1.5,
                                                  seed=seed).choices[0].text

        self.assertEqual(draw(7), draw(7))
        self.assertNotEqual(draw(7), draw(8))

    def test_errors_are_the_clients_own(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="demo", prompt="a", temperature=-3)
        self.assertEqual(caught.exception.body["param"], "temperature")
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.completions.create(model="gpt-4", prompt="a")
        self.assertEqual(caught.exception.body["code"], "model_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="demo", prompt="a", max_tokens=10**9)
        self.assertEqual(caught.exception.body["code"], "context_length_exceeded")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "a"}],
                                                tools=[{"type": "function", "function": {"name": "f"}}])
        self.assertEqual(caught.exception.body["param"], "tools")
        with openai.OpenAI(base_url=self.url, api_key="wrong", max_retries=0) as stranger:
            with self.assertRaises(openai.AuthenticationError) as caught:
                stranger.models.list()
        self.assertEqual(caught.exception.body["code"], "invalid_api_key")

    def test_leaving_a_stream_ends_its_request(self):
        stream = self.client.completions.create(model="demo", prompt=QUESTION, max_tokens=20000, temperature=0,
                                                stream=True, extra_body={"duo": {"ignore_eos": True}})
        for chunk, _ in zip(stream, range(3)):
            self.assertEqual(len(chunk.choices), 1)
        stream.close()
        while True:  # must end, else the test hangs
            status = json.loads(self.client.get("/status", cast_to=str))
            if all(s["state"] == "kept" for s in status["sequences"]):
                break
            time.sleep(0.05)
        self.assertTrue(all(s["generated_tokens"] < 20000 for s in status["sequences"]))


if __name__ == "__main__":
    if openai is None:
        print("SKIPPED: no openai")
        sys.exit(0)
    cli_harness.DUO = sys.argv.pop(1)
    unittest.main()
