"""Tests what `duo serve` refuses, and the errors. Usage: serve_errors_test.py PATH/TO/duo"""

import json
import re

from cli_harness import main
from serve_harness import ServeTest, SharedServerTest

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "a"}]

# The route, fields to add to a good request, the parameter that the error names, and words of the error.
WRONG_FIELDS = [
    (TEXT, {"prompt": None}, "prompt", "missing"),
    (TEXT, {"prompt": 3}, "prompt", "expected a text"),
    (TEXT, {"prompt": []}, "prompt", "expected a text"),
    (TEXT, {"prompt": [[]]}, "prompt", "no tokens"),
    (TEXT, {"prompt": ["a", 1]}, "prompt", "found number"),
    (TEXT, {"prompt": [1, "a"]}, "prompt", "token ids"),
    (TEXT, {"prompt": [-1]}, "prompt", "token ids"),
    (TEXT, {"prompt": [1.5]}, "prompt", "token ids"),
    (TEXT, {"prompt": [1024]}, "prompt", "1024 is not in the vocabulary 0..1023"),
    (TEXT, {"prompt": [2**40]}, "prompt", "token ids"),
    (TEXT, {"prompt": ["a"] * 65}, "prompt", "65 prompts, at most 64"),
    (TEXT, {"max_tokens": -1}, "max_tokens", "-1 is not an integer in 0.."),
    (TEXT, {"max_tokens": 1.5}, "max_tokens", "expected an integer"),
    (TEXT, {"max_tokens": "many"}, "max_tokens", "found string"),
    (TEXT, {"max_tokens": 2**64}, "max_tokens", "expected an integer"),
    (TEXT, {"temperature": -3}, "temperature", "-3 is not a number in 0.0.."),
    (TEXT, {"temperature": "hot"}, "temperature", "found string"),
    (TEXT, {"temperature": 1e308}, "temperature", "is not a number in"),
    (TEXT, {"top_p": 1.1}, "top_p", "is not a number in"),
    (TEXT, {"frequency_penalty": 2.5}, "frequency_penalty", "is not a number in"),
    (TEXT, {"presence_penalty": -2.5}, "presence_penalty", "is not a number in"),
    (TEXT, {"logit_bias": {"a": 1}}, "logit_bias", "token id"),
    (TEXT, {"logit_bias": {"1": 101}}, "logit_bias", "-100..100"),
    (TEXT, {"logit_bias": {"99999999999": 1}}, "logit_bias", "token id"),
    (TEXT, {"logit_bias": [1]}, "logit_bias", "expected an object"),
    (TEXT, {"seed": 2**63}, "seed", "expected an integer"),
    (TEXT, {"stop": ""}, "stop", "not empty"),
    (TEXT, {"stop": ["a"] * 17}, "stop", "at most 16"),
    (TEXT, {"stop": [1]}, "stop", "expected a text"),
    (TEXT, {"logprobs": 21}, "logprobs", "0..20"),
    (TEXT, {"logprobs": True}, "logprobs", "expected an integer"),
    (TEXT, {"echo": "yes"}, "echo", "expected true or false"),
    (TEXT, {"stream": 1}, "stream", "expected true or false"),
    (TEXT, {"stream_options": {"include_usage": True}}, "stream_options", '"stream": true'),
    (TEXT, {"stream": True, "stream_options": {"other": 1}}, "stream_options.other", "no such field"),
    (TEXT, {"n": 2}, "n", "one choice"),
    (TEXT, {"best_of": 3}, "best_of", "one choice"),
    (TEXT, {"suffix": "end"}, "suffix", "end of a text"),
    (TEXT, {"messages": USER}, "messages", "has no such field"),
    (TEXT, {"max_token": 3}, "max_token", "has no such field"),
    (TEXT, {"duo": 1}, "duo", "expected an object"),
    (TEXT, {"duo": {"spars": 1}}, "duo.spars", "has no such field"),
    (TEXT, {"duo": {"sparsity": 1.5}}, "duo.sparsity", "is not a number in"),
    (TEXT, {"duo": {"pattern": "other"}}, "duo.pattern", 'unknown pattern "other"'),
    (TEXT, {"duo": {"pattern": "none", "sparsity": 0.5}}, "duo.sparsity", "contradicts"),
    (TEXT, {"duo": {"sink": -1}}, "duo.sink", "is not an integer in"),
    (TEXT, {"duo": {"recent": 0}}, "duo.recent", "is not an integer in"),
    (TEXT, {"duo": {"cache": "../x"}}, "duo.cache", "letters, digits"),
    (TEXT, {"duo": {"cache": ""}}, "duo.cache", "letters, digits"),
    (TEXT, {"duo": {"top_k": -1}}, "duo.top_k", "is not an integer in"),
    (TEXT, {"duo": {"min_p": 2}}, "duo.min_p", "is not a number in"),
    (TEXT, {"duo": {"repetition_penalty": 0}}, "duo.repetition_penalty", "is not a number in"),
    (TEXT, {"duo": {"ignore_eos": 0}}, "duo.ignore_eos", "expected true or false"),
    (TEXT, {"duo": {"pin_system_prompt": True}}, "duo.pin_system_prompt", "has no such field"),
    (TEXT, {"prompt": ["a", "b"], "duo": {"cache": "x"}}, "duo.cache", "one prompt"),
    (CHAT, {"messages": []}, "messages", "expected an array"),
    (CHAT, {"messages": "hello"}, "messages", "expected an array"),
    (CHAT, {"messages": ["hello"]}, "messages[0]", "expected an object"),
    (CHAT, {"messages": [*USER, {"role": "tool", "content": "a"}]}, "messages[1].role", "expected system"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type", "text"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}]},
     "messages[0].content[0].cache_control", "has no such field"),
    (CHAT, {"messages": [*USER, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
     "messages[1].tool_calls", "not call tools"),
    (CHAT, {"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages[0].name", "no place for names"),
    (CHAT, {"messages": [{"role": "user", "content": "a", "prefix": True}]}, "messages[0].prefix", "no such field"),
    (CHAT, {"cache_salt": ""}, "cache_salt", "1..256 bytes"),
    (TEXT, {"cache_salt": 5}, "cache_salt", "expected a string"),
    (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens", "is not an integer in 1.."),
    (CHAT, {"top_logprobs": 2}, "top_logprobs", '"logprobs": true'),
    (CHAT, {"tools": [{"type": "function"}]}, "tools", "not call tools"),
    (CHAT, {"response_format": {"type": "json_object"}}, "response_format", "plain text"),
    (CHAT, {"prompt": "a"}, "prompt", "has no such field"),
    ("/tokenize", {"content": 1}, "content", "expected a string"),
    ("/tokenize", {}, "content", "expected one of"),
    ("/tokenize", {"content": "a", "messages": USER}, "content", "expected one of"),
    ("/tokenize", {"content": "a", "other": 1}, "other", "has no such field"),
    ("/detokenize", {"tokens": ["a"]}, "tokens", "token ids"),
    ("/detokenize", {"tokens": 5}, "tokens", "token ids"),
    ("/detokenize", {"tokens": [5, 1024]}, "tokens[1]", "1024 is not in the vocabulary 0..1023"),
    ("/tokenize", {"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages[0].name", "names"),
]  # fmt: skip

# None of these is a request.
BROKEN_BODIES = [
    b"", b" ", b"\0", b"\0" * 1000, b"{", b"}", b"[", b"]", b"{}", b"[]", b"null", b"true", b"1", b'"prompt"',
    b"prompt",
    b'{"prompt"', b'{"prompt":', b'{"prompt":"a"', b'{"prompt":"a",}', b'{"prompt":"a"}}', b'{"prompt":"a"} x',
    b'{"prompt":"a" "max_tokens":1}', b"{'prompt':'a'}", b'{prompt:"a"}', b'{"prompt":"a\n"}', b'{"prompt":"\\x41"}',
    b'{"prompt":"\\ud800"}', b'{"prompt":"\\udc00\\ud800"}', b'{"prompt":"\xff\xfe"}', b'{"prompt":"\xc3"}',
    b'{"prompt":"\xed\xa0\x80"}', b'{"prompt":"\xf4\x90\x80\x80"}', b'{"prompt":"\xc0\xaf"}', b'{"\xff":1}',
    b'{"prompt":"a\0b"}', b'{"prompt":"a"}\0', b"\xef\xbb\xbf", '{"prompt":"a"}'.encode("utf-16"),
    b'{"prompt":"a","max_tokens":1e999}', b'{"prompt":"a","max_tokens":' + b"9" * 5000 + b"}",
    b'{"prompt":"a","temperature":-1e999}', b'{"prompt":"a","temperature":NaN}',
    b'{"prompt":"a","temperature":Infinity}',
    b'{"prompt":"a","max_tokens":01}', b'{"prompt":"a","max_tokens":+1}', b'{"prompt":"a","max_tokens":0x10}',
    b'{"prompt":"a","max_tokens":18446744073709551616}', b'{"prompt":"a","max_tokens":-9223372036854775809}',
    b'{"prompt":"a","seed":1e30}', b'{"prompt":[1e400]}', b'{"prompt":[99999999999999999999]}', b'{"prompt":[true]}',
    b'{"prompt":{}}', b'{"prompt":[{}]}', b'{"prompt":[null]}', b'{"prompt":[["a"]]}', b"[" * 100000,
    b'{"a":' * 100000, b"[" * 50000 + b"]" * 50000, b'{"prompt":' + b"[" * 65 + b"]" * 65 + b"}",
    b'{"prompt":"a","logit_bias":{"1":{"2":3}}}', b'{"prompt":"a","stop":{"a":1}}', b'{"prompt":"a","duo":[[]]}',
    b'{"prompt":"a","":1}', b'{"prompt":"a","stream":"\\u0000"}', b"--boundary\r\nContent-Disposition: form-data\r\n",
]  # fmt: skip


class FieldsTest(SharedServerTest):
    flags = ["--chat-template", "chatml"]

    def test_wrong_fields_are_named(self):
        for path, fields, param, needle in WRONG_FIELDS:
            body = {TEXT: {"prompt": "a", "max_tokens": 1}, CHAT: {"messages": USER, "max_tokens": 1}}.get(path, {})
            with self.subTest(path=path, fields=json.dumps(fields)[:80]):
                answer = self.server.request("POST", path, {**body, **fields})
                message = self.assert_error(answer, 400, "invalid_request_error", None, param, needle)
                self.assertRegex(message, r"^(duo\.)?%s: " % re.escape(param.removeprefix("duo.")))

    def test_streams_are_refused_with_a_status_too(self):
        answer = self.server.request("POST", TEXT, {"prompt": "a", "stream": True, "temperature": -1})
        self.assert_error(answer, 400, "invalid_request_error", None, "temperature")

    def test_fields_that_ask_for_nothing_are_taken(self):
        neutral = {"max_tokens": 1, "n": 1, "user": "me", "stop": None, "seed": None, "logit_bias": None}
        self.server.post(TEXT, {"prompt": "a", "best_of": 1, "suffix": None, "logprobs": None, **neutral})
        self.server.post(CHAT, {"messages": USER, "tools": [], "tool_choice": "none", "stream": False,
                                "response_format": {"type": "text"}, **neutral})  # fmt: skip

    def test_tokens_beside_the_vocabulary(self):
        for tokens in [[1024], [2**31 - 1], [0, 5000]]:
            answer = self.server.request("POST", "/detokenize", {"tokens": tokens})
            self.assertIn(answer.status, [200, 400], tokens)
        for key in ["1024", "2147483647"]:
            answer = self.server.request("POST", TEXT, {"prompt": "a", "max_tokens": 1, "logit_bias": {key: 1}})
            self.assertEqual(answer.status, 400, answer.body)
        self.assertEqual(self.server.get("/health"), {"status": "ok"})

    def test_unknown_things(self):
        answer = self.server.request("POST", TEXT, {"prompt": "a", "model": "gpt-4"})
        self.assert_error(answer, 404, "not_found_error", "model_not_found", "model", '"gpt-4" is not served here')
        answer = self.server.request("GET", "/v1/models/gpt-4")
        self.assert_error(answer, 404, "not_found_error", "model_not_found", needle='"gpt-4"')
        for method, path in [("GET", "/v1/nothing"), ("GET", TEXT), ("DELETE", "/v1/models/demo"), ("PUT", "/health")]:
            answer = self.server.request(method, path)
            self.assert_error(answer, 404, "not_found_error", needle="there is nothing at %s %s" % (method, path))

    def test_sessions_that_are_not_there(self):
        for method, path in [("DELETE", "/v1/sessions/tale")]:
            self.assert_error(self.server.request(method, path), 404, "not_found_error", "session_not_found",
                              needle='no session "tale"')  # fmt: skip
        for verb in ["save", "restore"]:
            answer = self.server.request("POST", "/v1/sessions/tale/" + verb)
            self.assert_error(answer, 400, "invalid_request_error", needle="without a folder")

    def test_other_content_types(self):
        for kind in [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"]:
            answer = self.server.request("POST", TEXT, b'{"prompt": "a"}', {"Content-Type": kind} if kind else {})
            self.assert_error(answer, 415, "invalid_request_error", needle="application/json")
        answer = self.server.request("POST", TEXT, b'{"prompt": "a", "max_tokens": 1}',
                                     {"Content-Type": "application/json; charset=utf-8"})  # fmt: skip
        self.assertEqual(answer.status, 200)


class BrokenBodiesTest(SharedServerTest):
    flags = ["--chat-template", "chatml", "--idle-timeout", 2]

    def test_there_are_enough(self):
        self.assertGreaterEqual(len(set(BROKEN_BODIES)), 64)

    def test_each_gets_one_answer(self):
        for body in BROKEN_BODIES:
            for path in [TEXT, CHAT, "/tokenize", "/detokenize"]:
                with self.subTest(path=path, body=body[:60], size=len(body)):
                    head = "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % path
                    head += "Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
                    self.check_one_answer(self.server.raw(head.encode() + body))
        self.assertEqual(self.server.get("/health"), {"status": "ok"})
        self.assertEqual(self.server.complete("The cow", 4)[2]["usage"]["completion_tokens"], 4)

    def check_one_answer(self, data):
        head, _, body = data.partition(b"\r\n\r\n")
        self.assertEqual(head.count(b"HTTP/1.1 4"), 1, data)
        self.assertNotIn(b"HTTP/1.1", body)
        error = json.loads(body.decode("utf-8"))["error"]
        self.assertEqual(error["type"], "invalid_request_error")
        self.assertTrue(error["message"])

    def test_broken_requests(self):
        good = b'{"prompt":"a","max_tokens":1}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for data in [
            b"\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
            head + b"\r\n" + good, head + b"Content-Length: -1\r\n\r\n" + good,
            head + b"Content-Length: x\r\n\r\n" + good,
            head + b"Content-Length: 99999999999999999999\r\n\r\n" + good, head + b"no colon\r\n\r\n" + good,
            head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + good,
            head + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + good,
            head + b"Content-Length: 99\r\n\r\n" + good,
            head + b"Content-Encoding: gzip\r\nContent-Length: 29\r\n\r\n" + good,
            b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /v1/sessions/" + b"a" * 8000 + b"/save HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /v1/models/" + b"a" * 60000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"DELETE /v1/sessions/" + b"a" * 8000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ]:  # fmt: skip
            with self.subTest(data=data[:140]):
                answer = self.server.raw(data, end_of_input=True)
                self.assertLessEqual(answer.count(b"HTTP/1.1 "), 1, answer)
                self.assertFalse(answer.startswith(b"HTTP/1.1 2"), answer)
                self.assertFalse(answer.startswith(b"HTTP/1.1 5"), answer)
                self.assertEqual(self.server.get("/health"), {"status": "ok"})

    def test_requests_may_follow_one_another_at_once(self):
        get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
        data = self.server.raw(get % b"" + get % b"Connection: close\r\n")
        self.assertEqual(data.count(b'{"status":"ok"}'), 2, data)
        self.assertEqual(data.count(b"HTTP/1.1 200"), 2, data)

    def test_what_was_announced_as_a_body_is_no_request(self):
        inner = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        for head in [
            "GET /v1/models HTTP/1.1\r\nHost: localhost",
            # A page of another site may send this request.
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain",
            "POST /v1/completions HTTP/1.1\r\nHost: other.example\r\nContent-Type: application/json",
            "POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json",
        ]:
            with self.subTest(head=head):
                head += "\r\nContent-Length: %d\r\n\r\n" % len(inner)
                data = self.server.raw(head.encode() + inner, end_of_input=True)
                self.assertNotIn(b'"status":"ok"', data)


class NoTemplateTest(ServeTest):
    def test_chat_without_a_template_says_so(self):
        server = self.serve()
        answer = server.request("POST", CHAT, {"messages": USER})
        self.assert_error(answer, 400, "invalid_request_error", None, "messages", "no chat template")
        self.assertIsNone(server.status()["model"]["chat"])
        self.assertEqual(server.request("POST", "/tokenize", {"messages": USER}).status, 400)
        self.assertIn("no chat:", server.log_text())

    def test_pattern_fields_need_a_pattern(self):
        server = self.serve(pattern="none")
        answer = server.request("POST", TEXT, {"prompt": "a", "duo": {"sparsity": 0.5}})
        self.assert_error(answer, 400, "invalid_request_error", None, "duo.sparsity", "without a pattern")
        answer = server.request("POST", TEXT, {"prompt": "a", "duo": {"pattern": "demo"}})
        self.assert_error(answer, 400, "invalid_request_error", None, "duo.pattern", 'unknown pattern "demo"')
        self.assertIsNone(server.status()["pattern"])
        self.assertEqual(server.complete("The cow", 2, duo={"pattern": "none"})[2]["duo"]["sparsity"], 0)


if __name__ == "__main__":
    main()
