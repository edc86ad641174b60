"""Tests sessions of `duo serve` when disks fail and servers are killed. Usage: serve_sessions_test.py PATH/TO/duo"""

import http.client
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time

from cli_harness import MODEL, main
from serve_harness import ENDLESS, EXACT, PROSE, ServeTest, wait_until

TEXT = "/v1/completions"
BAD_NAMES = ["../x", "..", ".", ".x", "a" * 65, "%2e%2e%2f", "%2e%2e", "..%2fx", "x%2fy", "x%00", "x%0a",
             "x%20y", "%c3%a9", "x\\y", "%252e", "~", "x:y", "*"]  # fmt: skip


class DiskTest(ServeTest):
    def setUp(self):
        super().setUp()
        self.folder = self.dir / "sessions"
        self.path = self.folder / "tale.session"

    def server(self, *flags, exact=EXACT, **kwargs):
        return self.serve(*exact, "--session-dir", self.folder, "--snapshot-every", 256, *flags, **kwargs)

    def ask(self, server, prompt=PROSE * 40, n=4, **own):
        return server.complete(prompt, n, duo={"cache": "tale", "ignore_eos": True, **own})

    def act(self, server, verb, name="tale"):
        return server.request("POST", "/v1/sessions/%s/%s" % (name, verb))

    def save(self, server, prompt=PROSE * 40):
        self.ask(server, prompt)
        answer = self.act(server, "save")
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json()

    def names(self):
        return sorted(p.name for p in self.folder.iterdir())

    def saved_file(self, *flags, **kwargs):
        server = self.server(*flags, **kwargs)
        entry = self.save(server)
        self.assertEqual(server.stop(), 0)
        return entry


class LifeTest(DiskTest):
    def test_list_save_delete(self):
        server = self.server()
        self.assertEqual(server.get("/v1/sessions"), {"object": "list", "data": []})
        whole = self.ask(server)[2]
        n = whole["usage"]["total_tokens"] - 1
        expected = {"name": "tale", "tokens": n, "kv_bytes": whole["duo"]["kv_bytes"], "in_memory": True, "busy": False,
                    "on_disk": False, "disk_bytes": 0}  # fmt: skip
        self.assertEqual(server.get("/v1/sessions")["data"], [expected])
        self.assert_error(self.act(server, "restore"), 404, "not_found_error", "session_not_found")
        saved = self.act(server, "save").json()
        self.assertEqual(saved, {**expected, "on_disk": True, "disk_bytes": self.path.stat().st_size})
        self.assertEqual(server.get("/v1/sessions")["data"], [saved])
        self.assert_error(self.act(server, "restore"), 409, "conflict_error", needle="is in memory")
        self.assertEqual(self.names(), ["tale.session"])
        answer = server.request("DELETE", "/v1/sessions/tale")
        self.assertEqual((answer.status, answer.json()), (200, {"name": "tale", "deleted": True}))
        self.assertEqual((self.names(), server.get("/v1/sessions")["data"], server.in_state("kept")), ([], [], []))
        answers = [server.request("DELETE", "/v1/sessions/tale"), self.act(server, "save"), self.act(server, "restore")]
        for answer in answers:
            self.assert_error(answer, 404, "not_found_error", "session_not_found")
        self.assertEqual(self.ask(server)[1], 0, "nothing of the session is left")

    def test_delete_of_what_is_only_on_disk(self):
        self.saved_file()
        server = self.server()
        self.assertEqual(server.request("DELETE", "/v1/sessions/tale").status, 200)
        self.assertEqual(self.names(), [])

    def test_busy_session(self):
        server = self.server()
        self.save(server)
        before = self.path.read_bytes()
        stream = server.stream(body={**ENDLESS, "duo": {"ignore_eos": True, "cache": "tale"}})
        stream.next()
        for answer in [self.act(server, "save"), server.request("DELETE", "/v1/sessions/tale")]:
            self.assert_error(answer, 409, "conflict_error", needle="in use")
        self.assert_error(self.act(server, "restore"), 409, "conflict_error")
        self.assertEqual(self.path.read_bytes(), before)
        stream.disconnect()
        server.wait_for_states()
        self.assertEqual(self.act(server, "save").status, 200)

    def test_second_server_on_one_folder_is_refused(self):
        server = self.server()
        self.save(server)
        self.fails(1, [str(self.folder), "another run"], "serve", "--model", "demo", "--port", 0, "--session-dir",
                   self.folder)  # fmt: skip
        self.assertEqual(self.act(server, "save").status, 200)
        self.assertEqual(server.stop(), 0)
        self.server()

    def test_bad_names_are_refused(self):
        server = self.server()
        self.save(server)
        (self.dir / "x.session").write_bytes(self.path.read_bytes())
        for name in BAD_NAMES:
            for method, path in [("POST", "/v1/sessions/%s/save"), ("POST", "/v1/sessions/%s/restore"),
                                 ("DELETE", "/v1/sessions/%s")]:  # fmt: skip
                with self.subTest(name=name, path=path):
                    answer = server.request(method, path % name)
                    self.assertIn(answer.status, [400, 404], answer.body)
                    type_ = "invalid_request_error" if answer.status == 400 else "not_found_error"
                    self.assertEqual(answer.error()["type"], type_)
        for name in ["../x", ".x", "a" * 65, "x\u0000", "x\n", "\u00e9", "a/b"]:
            answer = server.request("POST", TEXT, {"prompt": "a", "duo": {"cache": name}})
            self.assert_error(answer, 400, "invalid_request_error", None, "duo.cache")
        self.assertEqual(self.names(), ["tale.session"])
        self.assertTrue((self.dir / "x.session").exists())
        longest = "a.-_Z9" + "b" * 58
        server.complete("The cow", 1, duo={"cache": longest})
        self.assertEqual(self.act(server, "save", longest).status, 200)
        self.assertEqual(self.names(), [longest + ".session", "tale.session"])


class OtherServerTest(DiskTest):
    def refused_by(self, *needles, flags=(), **kwargs):
        server = self.server(*flags, **kwargs)
        before = self.path.read_bytes()
        message = self.assert_error(self.act(server, "restore"), 409, "conflict_error")
        for needle in needles:
            self.assertIn(needle, message)
        answer = server.request("POST", TEXT, {"prompt": "a", "max_tokens": 1, "duo": {"cache": "tale"}})
        self.assert_error(answer, 409, "conflict_error")
        self.assertEqual(server.complete("The cow", 2)[2]["usage"]["completion_tokens"], 2)
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(server.status()["memory"]["promised_bytes"], 0)

    def test_other_kv_type(self):
        self.saved_file()
        self.refused_by("tale.session", "f32", "bf16", exact=["--compute", "f32", "--kv-type", "bf16"])

    def test_other_sparsity_and_windows(self):
        self.saved_file()
        self.refused_by("tale.session", flags=["--recent", 128])

    def test_other_pattern(self):
        self.saved_file()
        self.refused_by("tale.session", pattern="none")

    def test_request_with_a_pattern_the_server_has_not(self):
        server = self.server()
        self.ask(server, sparsity=0.75)
        self.assertEqual(self.act(server, "save").status, 200)
        server.stop()
        self.refused_by("tale.session", "sparsity", pattern="none")

    def test_other_model(self):
        self.saved_file()
        model = self.dir / "demo"
        shutil.copytree(MODEL, model, symlinks=True)
        weights = bytearray((model / "model.safetensors").read_bytes())
        weights[-2] ^= 1
        os.chmod(model / "model.safetensors", 0o644)
        (model / "model.safetensors").write_bytes(weights)
        self.refused_by("tale.session", "model", model=model, pattern=MODEL / "pattern")


class DamageTest(DiskTest):
    def test_damaged_and_truncated_files(self):
        self.saved_file()
        good = self.path.read_bytes()
        rng = random.Random(1)
        server = self.server()
        cases = {"empty": b"", "one byte": b"d", "no session": b"hello\n" * 1000, "zeros": bytes(len(good)),
                 "longer": good + b"\0", "half": good[: len(good) // 2], "less": good[:-1], "preamble": good[:40],
                 "header": good[:4096]}  # fmt: skip
        for at in [0, 4, 9, 16, 24, 32, 39, 41, 60, 100, 200, 300, 4096, 5000, len(good) // 2, len(good) - 1]:
            cases["flipped at %d" % at] = good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :]
        for at in range(0, 40, 8):
            cases["huge number at %d" % at] = good[:at] + b"\xff" * 8 + good[at + 8 :]
        for what, data in cases.items():
            with self.subTest(what):
                self.path.write_bytes(data)
                message = self.assert_error(self.act(server, "restore"), 409, "conflict_error")
                self.assertIn("tale.session", message)
                answer = server.request("POST", TEXT, {"prompt": "a", "max_tokens": 1, "duo": {"cache": "tale"}})
                self.assert_error(answer, 409, "conflict_error")
                self.assertEqual(server.get("/v1/sessions")["data"][0]["disk_bytes"], len(data))
                self.assertEqual((server.in_state("kept"), server.status()["memory"]["promised_bytes"]), ([], 0))
        self.path.write_bytes(good)
        self.assertEqual(self.act(server, "restore").status, 200)
        self.assertEqual(self.ask(server)[0], self.generate(PROSE * 40, 4, "--ignore-eos"))

    def test_no_regular_file(self):
        self.folder.mkdir()
        self.path.mkdir()
        server = self.server()
        self.assert_error(self.act(server, "restore"), 404, "not_found_error", "session_not_found")
        self.ask(server)
        self.assert_error(self.act(server, "save"), 507, "server_error", needle="tale.session")
        self.assertTrue(self.path.is_dir())

    def test_leftovers_go_and_other_files_stay(self):
        self.saved_file()
        for name in ["tale.session.tmp123", "notes.txt", "a.b c.session"]:
            (self.folder / name).write_bytes(b"x")
        server = self.server()
        self.assertEqual(self.names(), ["a.b c.session", "notes.txt", "tale.session"])
        self.assertEqual([s["name"] for s in server.get("/v1/sessions")["data"]], ["tale"])


class FullDiskTest(DiskTest):
    def check_failed_save(self, server, before):
        self.ask(server, PROSE * 400)
        self.assertGreater(server.in_state("kept")[0]["kv_bytes"], 4 << 20)
        message = self.assert_error(self.act(server, "save"), 507, "server_error")
        self.assertNotIn(str(self.folder), message)
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(self.names(), ["tale.session"])
        entry = server.get("/v1/sessions")["data"][0]
        self.assertEqual((entry["in_memory"], entry["busy"], entry["on_disk"]), (True, False, True))
        self.assertEqual(entry["disk_bytes"], len(before))
        self.assertEqual(self.ask(server, PROSE * 400)[0], self.generate(PROSE * 400, 4, "--ignore-eos"))

    def test_file_that_may_not_grow(self):
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))

        server = self.server(preexec_fn=limit)
        self.save(server)
        self.check_failed_save(server, self.path.read_bytes())

    def test_full_disk(self):
        self.folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(self.folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            print("SKIPPED: no file system of a few MiB can be mounted here")
            return
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.folder)], check=True)
        server = self.server()
        self.save(server)
        self.check_failed_save(server, self.path.read_bytes())
        self.assert_error(self.act(server, "save"), 507, "server_error", needle="are free")
        self.assertEqual(server.stop(), 0)

    def test_folder_that_may_not_be_written(self):
        kwargs = {}
        if os.geteuid() == 0:
            kwargs = {"user": 65534, "group": 65534, "extra_groups": []}
            os.chmod(self.dir, 0o777)
        self.folder.mkdir()
        os.chmod(self.folder, 0o777)
        try:
            server = self.server(**kwargs)
        except (AssertionError, OSError) as error:
            if not kwargs:
                raise
            print("SKIPPED: another user cannot run duo here: %s" % error)
            return
        self.save(server)
        before = self.path.read_bytes()
        os.chmod(self.folder, 0o555)
        self.addCleanup(os.chmod, self.folder, 0o777)
        self.ask(server, PROSE * 50)
        self.assert_error(self.act(server, "save"), 507, "server_error", needle="tale.session")
        self.assertEqual((self.path.read_bytes(), self.names()), (before, ["tale.session"]))
        answer = server.request("DELETE", "/v1/sessions/tale")
        self.assert_error(answer, 507, "server_error", needle="cannot be removed")
        os.chmod(self.folder, 0o777)
        self.assertEqual(self.act(server, "restore").status, 200)

    def test_folder_that_went_away(self):
        server = self.server()
        self.save(server)
        shutil.rmtree(self.folder)
        self.assert_error(self.act(server, "save"), 507, "server_error")
        self.assertEqual(server.get("/health"), {"status": "ok"})


class KillTest(DiskTest):
    def save_in_a_loop(self, server, acknowledged, tried):
        """Asks for longer and longer texts and saves the session, until the server is killed."""
        for n in range(2000, 6000, 100):
            try:
                whole = self.ask(server, [1022] + [5 + n % 7] * n, 1)[2]
                tried.append(whole["usage"]["total_tokens"] - 1)
                if self.act(server, "save").status == 200:
                    acknowledged.append(tried[-1])
            except (OSError, http.client.HTTPException):
                return

    def test_killed_while_saving(self):
        rng = random.Random(7)
        n_in_the_middle = 0
        for _ in range(10):
            server = self.server()
            acknowledged, tried = [], []
            thread = threading.Thread(target=self.save_in_a_loop, args=(server, acknowledged, tried))
            thread.start()
            wait_until(lambda: len(acknowledged) >= 1, "a saved session")
            time.sleep(rng.random() * 0.2)
            wait_until(lambda: len(tried) > len(acknowledged) or not thread.is_alive(), "a session that is being saved")
            time.sleep(rng.random() * 0.01)
            n_in_the_middle += len(tried) > len(acknowledged)
            server.kill()
            thread.join()
            server = self.server()
            self.assertEqual(self.names(), ["tale.session"])
            entry = server.get("/v1/sessions")["data"][0]
            self.assertIn(entry["tokens"], [acknowledged[-1], tried[-1]])
            restored = self.act(server, "restore")
            self.assertEqual((restored.status, restored.json()["tokens"]), (200, entry["tokens"]), restored.body)
            n = entry["tokens"] - 1
            prompt = [1022] + [5 + n % 7] * n
            text, cached, _ = self.ask(server, prompt + [9], 6)
            self.assertEqual(text, self.generate(prompt + [9], 6, "--ignore-eos"))
            self.assertGreaterEqual(cached, entry["tokens"] - 256)
            self.assertEqual(server.request("DELETE", "/v1/sessions/tale").status, 200)
            self.assertEqual(server.stop(), 0)
        print("killed in the middle of %d saves of 10" % n_in_the_middle)


if __name__ == "__main__":
    main()
