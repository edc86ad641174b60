"""Clients of one `duo serve` see only their own data. Usage: serve_trust_test.py PATH/TO/duo [unittest arguments]"""

import json
import os
import stat

import cli_harness
from cli_harness import main
from serve_harness import ENDLESS, JSON_HEADER, PROSE, ServeTest, Stream, wait_until

TEXT = "/v1/completions"
KEYS = "# name key\nanna key-of-anna\nben key-of-ben\nroot key-of-root\n"
LONG = PROSE * 8  # longer than the shortest prefix that is copied


def header(who):
    return {"Authorization": "Bearer key-of-" + who, **JSON_HEADER}


class TrustTest(ServeTest):
    pattern = "none"  # full attention in bf16, the default, reuses prefixes of any length

    def start(self, *flags, keys=KEYS):
        self.folder = self.dir / "sessions"
        path = self.dir / "keys"
        path.write_text(keys)
        path.chmod(0o600)
        self.server = self.serve("--api-key-file", path, "--session-dir", self.folder, *flags,
                                 pattern=self.pattern)  # fmt: skip
        return self.server

    def request(self, who, method, path, body=None):
        return self.server.request(method, path, body, header(who))

    def json(self, who, method, path, body=None):
        answer = self.request(who, method, path, body)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json()

    def ask(self, who, prompt, **fields):
        """The number of cached tokens."""
        whole = self.json(who, "POST", TEXT, {"prompt": prompt, "max_tokens": 1, "temperature": 0, **fields})
        cached = whole["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertEqual(whole["duo"]["cached_tokens"], cached)
        return cached

    def names(self, who):
        return [s["name"] for s in self.json(who, "GET", "/v1/sessions")["data"]]

    def metric(self, who, name):
        """The value of a line without labels. None when there is no such line."""
        text = self.request(who, "GET", "/metrics").body.decode()
        values = [line.split()[1] for line in text.splitlines() if line.split()[0] == name]
        return float(values[0]) if values else None


class PrefixTest(TrustTest):
    SECRET = "48213"
    BEGIN = LONG + "The code is "

    def guess(self, who, **fields):
        """Guesses the secret from the numbers of cached tokens: the right digit is cached, the others are not."""
        self.ask("anna", self.BEGIN + self.SECRET + ". " + 3 * LONG)
        known = ""
        while len(known) < len(self.SECRET):
            cached = {d: self.ask(who, self.BEGIN + known + d + "@ zz", **fields) for d in "0123456789"}
            best = [d for d in cached if cached[d] == max(cached.values())]
            if len(best) != 1:
                return None
            known += best[0]
        return known

    def test_a_secret_of_another_key_cannot_be_guessed(self):
        self.start()
        self.assertIsNone(self.guess("ben"))
        self.assertEqual(self.guess("anna"), self.SECRET, "the same attack works on the key's own prompts")

    def test_a_secret_under_another_salt_cannot_be_guessed(self):
        self.start()
        self.assertIsNone(self.guess("anna", cache_salt="guest"))

    def test_nothing_is_reused_across_keys_or_salts(self):
        self.start()
        self.assertEqual(self.ask("anna", LONG), 0)
        self.assertGreater(self.ask("anna", LONG), 0)
        self.assertEqual(self.ask("ben", LONG), 0)
        self.assertEqual(self.ask("anna", LONG, cache_salt="a"), 0)
        self.assertGreater(self.ask("anna", LONG, cache_salt="a"), 0)
        self.assertEqual(self.ask("anna", LONG, cache_salt="b"), 0)

    def test_shared_prefixes_make_one_domain(self):
        self.start("--share-prefixes")
        self.assertEqual(self.guess("ben"), self.SECRET)
        self.ask("anna", LONG, duo={"cache": "tale"})
        for who in ["anna", "ben", "root"]:
            self.assertEqual(self.names(who), ["tale"])
        self.json("ben", "POST", "/v1/sessions/tale/save")
        self.assertTrue((self.folder / "tale.session").exists())

    def test_one_key_without_a_name_is_one_domain(self):
        self.start(keys="key-of-anna\n")
        self.ask("anna", LONG, duo={"cache": "tale"})
        self.json("anna", "POST", "/v1/sessions/tale/save")
        self.assertTrue((self.folder / "tale.session").exists())
        self.assertIsNotNone(self.metric("anna", "duo_resident_bytes"))

    def test_a_salt_stays_with_its_session(self):
        self.start()
        self.ask("anna", LONG, cache_salt="a", duo={"cache": "tale"})
        self.json("anna", "POST", "/v1/sessions/tale/save")
        self.assertEqual(self.server.stop(), 0)
        self.start()
        for fields in [{}, {"cache_salt": "b"}]:
            body = {"prompt": LONG, "max_tokens": 1, "duo": {"cache": "tale"}, **fields}
            answer = self.request("anna", "POST", TEXT, body)
            self.assert_error(answer, 400, "invalid_request_error", None, "duo.cache", "cache_salt")
        self.assertEqual(self.ask("anna", LONG), 0)
        self.assertGreater(self.ask("anna", LONG, cache_salt="a", duo={"cache": "tale"}), 0)


class SessionTest(TrustTest):
    def test_sessions_belong_to_keys_in_memory_and_on_disk(self):
        self.start()
        self.ask("anna", LONG + "anna", duo={"cache": "tale"})
        self.assertEqual((self.names("anna"), self.names("ben"), self.names("root")), (["tale"], [], []))
        for method, path in [("POST", "/v1/sessions/tale/save"), ("DELETE", "/v1/sessions/tale")]:
            self.assert_error(self.request("ben", method, path), 404, "not_found_error", "session_not_found")
        self.assertEqual(self.ask("ben", LONG + "ben", duo={"cache": "tale"}), 0)
        for who in ["anna", "ben"]:
            self.json(who, "POST", "/v1/sessions/tale/save")
        files = sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*.session"))
        self.assertEqual(files, ["owners/anna/tale.session", "owners/ben/tale.session"])
        self.json("ben", "DELETE", "/v1/sessions/tale")
        self.assertEqual((self.names("anna"), self.names("ben")), (["tale"], []))
        self.assertEqual(self.server.stop(), 0)
        self.start()
        self.assert_error(self.request("ben", "POST", "/v1/sessions/tale/restore"), 404, "not_found_error",
                          "session_not_found")  # fmt: skip
        self.assertEqual(self.ask("ben", LONG + "anna", duo={"cache": "tale"}), 0)
        self.assertGreater(self.ask("anna", LONG + "anna", duo={"cache": "tale"}), 0)

    def test_files_from_a_time_without_names_are_theirs_who_have_none(self):
        self.start(keys="key-of-anna\n")
        self.ask("anna", LONG, duo={"cache": "tale"})
        self.json("anna", "POST", "/v1/sessions/tale/save")
        self.assertEqual(self.server.stop(), 0)
        self.start()
        self.assertEqual(self.names("anna"), [])
        (self.folder / "owners" / "anna").mkdir(parents=True)
        (self.folder / "tale.session").rename(self.folder / "owners" / "anna" / "tale.session")
        self.assertEqual((self.names("anna"), self.names("ben")), (["tale"], []))
        self.json("anna", "POST", "/v1/sessions/tale/restore")

    def test_autosave_saves_everybodys(self):
        self.start("--autosave")
        for who in ["anna", "ben"]:
            self.ask(who, LONG, duo={"cache": "tale"})
        self.assertEqual(self.server.stop(), 0)
        for who in ["anna", "ben"]:
            self.assertTrue((self.folder / "owners" / who / "tale.session").exists())


class StatusTest(TrustTest):
    def test_status_and_metrics_show_ones_own(self):
        self.start("--admin-key", "root")
        for who, name in [("anna", "novel"), ("ben", "letter")]:
            self.ask(who, LONG, duo={"cache": name})
        stream = Stream(self.server, TEXT, {**ENDLESS, "stream": True}, header("anna"))
        stream.next()
        seen = {who: self.json(who, "GET", "/v1/status") for who in ["anna", "ben", "root"]}
        keys = {who: sorted((s["key"], s["name"]) for s in status["sequences"] if s["name"])
                for who, status in seen.items()}  # fmt: skip
        self.assertEqual(keys["anna"], [("anna", "novel")])
        self.assertEqual(keys["ben"], [("ben", "letter")])
        self.assertEqual(keys["root"], [("anna", "novel"), ("ben", "letter")])
        self.assertNotIn("novel", json.dumps(seen["ben"]))
        promised = {who: status["memory"]["promised_bytes"] for who, status in seen.items()}
        self.assertEqual(promised["ben"], 0)
        self.assertEqual(promised["root"], promised["anna"])
        self.assertGreater(promised["anna"], 0)
        kept = {who: status["memory"]["kept_bytes"] for who, status in seen.items()}
        self.assertEqual(kept["root"], kept["anna"] + kept["ben"])
        running = {who: self.metric(who, "duo_running_requests") for who in seen}
        self.assertEqual(running, {"anna": 1, "ben": 0, "root": 1})
        tokens = {who: self.metric(who, "duo_prompt_tokens_total") for who in seen}
        self.assertEqual(tokens["root"], tokens["anna"] + tokens["ben"])
        self.assertGreater(tokens["anna"], tokens["ben"])
        memory = {who: self.metric(who, "duo_resident_bytes") for who in seen}
        self.assertEqual((memory["anna"], memory["ben"]), (None, None))
        self.assertGreater(memory["root"], 0)
        stream.disconnect()
        wait_until(lambda: self.metric("anna", "duo_cancelled_requests_total") == 1, "a cancelled request")
        self.assertEqual(self.metric("ben", "duo_cancelled_requests_total"), 0)

    def test_waiting_requests_are_ones_own(self):
        self.start("--parallel", 1)
        stream = Stream(self.server, TEXT, {**ENDLESS, "stream": True}, header("anna"))
        stream.next()
        connection = self.server.connect()
        connection.request("POST", TEXT, json.dumps({"prompt": "a", "max_tokens": 1}).encode(), header("ben"))
        wait_until(lambda: self.json("ben", "GET", "/v1/status")["queue"]["waiting"] == 1, "ben's request in the queue")
        self.assertEqual(self.json("anna", "GET", "/v1/status")["queue"]["waiting"], 0)
        self.assertEqual(self.metric("anna", "duo_waiting_requests"), 0)
        stream.disconnect()
        self.assertEqual(connection.getresponse().status, 200)
        connection.close()

    def test_the_log_names_keys_and_never_tells_them(self):
        self.start()
        self.ask("anna", "a")
        self.server.wait_for_log("POST /v1/completions 200 key anna")
        self.assertNotIn("key-of-anna", self.server.log_text())


class KeyFileTest(TrustTest):
    def test_names_of_admins_must_be_there(self):
        keys = self.file("keys", KEYS)
        for name, flags in [("carl", ["--api-key-file", keys]), ("anna", [])]:
            self.fails(2, ["--admin-key", name], "serve", "--model", "demo", "--port", 0, "--admin-key", name, *flags)

    def test_a_file_that_everybody_reads_is_noted(self):
        path = self.dir / "keys"
        path.write_text(KEYS)
        for mode, noted in [(0o644, True), (0o600, False)]:
            path.chmod(mode)
            server = self.serve("--api-key-file", path)
            self.assertEqual("everybody on this machine can read the keys" in server.log_text(), noted)

    def test_chat_takes_the_one_key_of_a_file(self):
        self.start("--chat-template", "chatml")
        url = "http://127.0.0.1:%d" % self.server.port
        for content, code in [("anna key-of-anna\n", 0), ("key-of-ben\n", 0), (KEYS, 2)]:
            file = self.file("mine", content)
            run = cli_harness.duo("chat", "--url", url, "--api-key-file", file, "--max-tokens", 1, stdin="hello\n")
            self.assertEqual(run.code, code, run.err)


class FolderTest(TrustTest):
    """Other users of the machine cannot see or change the sessions."""

    def mode(self, path):
        return stat.S_IMODE(os.lstat(path).st_mode)

    def test_files_and_folders_are_the_servers_alone(self):
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.start()
        self.ask("anna", LONG, duo={"cache": "tale"})
        self.json("anna", "POST", "/v1/sessions/tale/save")
        owners = self.folder / "owners"
        self.assertEqual([self.mode(p) for p in [self.folder, owners, owners / "anna"]], [0o700] * 3)
        self.assertEqual(self.mode(owners / "anna" / "tale.session"), 0o600)

    def test_pipes_and_links_in_the_folder_are_not_looked_at(self):
        self.start(keys="key-of-anna\n")
        self.ask("anna", LONG, duo={"cache": "tale"})
        self.json("anna", "POST", "/v1/sessions/tale/save")
        self.json("anna", "DELETE", "/v1/sessions/tale")
        outside = self.dir / "outside.session"
        outside.write_bytes(b"untouched")
        os.mkfifo(self.folder / "pipe.session")
        os.symlink(outside, self.folder / "link.session")
        os.symlink(outside, self.folder / ("tale.session.tmp%d" % self.server.process.pid))
        self.assertEqual(self.names("anna"), [])
        for name in ["pipe", "link"]:
            answer = self.request("anna", "POST", "/v1/sessions/%s/restore" % name)
            self.assert_error(answer, 404, "not_found_error", "session_not_found")
        self.ask("anna", LONG, duo={"cache": "tale"})
        self.json("anna", "POST", "/v1/sessions/tale/save")
        self.assertEqual(outside.read_bytes(), b"untouched")
        self.assertEqual(self.names("anna"), ["tale"])
        self.assertEqual(self.server.stop(), 0)

    def test_errors_do_not_tell_where_the_folder_is(self):
        self.start(keys="key-of-anna\n")
        (self.folder / "broken.session").write_bytes(b"x")
        message = self.assert_error(self.request("anna", "POST", "/v1/sessions/broken/restore"), 409, "conflict_error")
        self.assertTrue(message.startswith("broken.session: "), message)
        (self.folder / "full.session").mkdir()
        self.ask("anna", LONG, duo={"cache": "full"})
        message = self.assert_error(self.request("anna", "POST", "/v1/sessions/full/save"), 507, "server_error")
        self.assertTrue(message.startswith("full.session: "), message)


class QuotaTest(TrustTest):
    def save(self, who, name):
        self.ask(who, LONG, duo={"cache": name})
        return self.request(who, "POST", "/v1/sessions/%s/save" % name)

    def test_number_of_sessions(self):
        self.start("--max-sessions", 2)
        for name in ["a", "b", "a"]:
            self.assertEqual(self.save("anna", name).status, 200)
        message = self.assert_error(self.save("anna", "c"), 507, "server_error", needle="higher limit")
        self.assertIn("2 sessions are saved", message)
        self.assertEqual(self.save("ben", "c").status, 200, "each key has its own limit")
        self.json("anna", "DELETE", "/v1/sessions/b")
        self.assertEqual(self.save("anna", "c").status, 200)

    def test_bytes_of_sessions(self):
        self.start()
        size = self.save("anna", "a").json()["disk_bytes"]
        self.assertEqual(self.server.stop(), 0)
        self.start("--session-quota", "%dKiB" % (2.5 * size / 1024))
        for name in ["b", "a", "b"]:
            self.assertEqual(self.save("anna", name).status, 200)
        self.assert_error(self.save("anna", "c"), 507, "server_error", needle="larger quota")
        self.assertEqual(sorted(self.names("anna")), ["a", "b", "c"])
        self.assertFalse((self.folder / "owners" / "anna" / "c.session").exists())
        self.assertEqual(self.save("ben", "c").status, 200)


if __name__ == "__main__":
    main()
