"""Opens the page of `duo serve` in a real browser, for serve_page_test.py."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.request

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    expect = sync_playwright = None

from serve_harness import wait_until

CHROMIUM = os.environ.get("DUO_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("DUO_PAGE_SHOTS")
DUO = ""
HANG_SECONDS = float(os.environ.get("DUO_PAGE_HANG", 60))
DESKTOP = {"width": 1280, "height": 800}


def get(url, key=None):
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + key} if key else {})
    with urllib.request.urlopen(request, timeout=HANG_SECONDS) as response:
        return json.load(response)


@contextlib.contextmanager
def serve(*flags, url_variable):
    """The address of `duo serve` with the embedded model, or of the server that the environment names."""
    if os.environ.get(url_variable):
        yield os.environ[url_variable].rstrip("/")
        return
    folder = tempfile.mkdtemp(prefix="duo_page_test_")
    port_file = pathlib.Path(folder) / "port"
    command = [DUO, "serve", "--model", "demo", "--pattern", "demo", "--port", "0", "--port-file", str(port_file)]
    process = subprocess.Popen([*command, *flags])
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, "the port file")
        if process.poll() is not None:
            raise AssertionError("duo serve ended with code %d" % process.returncode)
        yield "http://127.0.0.1:%d" % int(port_file.read_text())
    finally:
        process.terminate()
        process.wait(HANG_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


class PageTest(unittest.TestCase):
    """All tests share one browser. Each has its own page, and fails on unexpected errors and requests."""

    @classmethod
    def setUpClass(cls):
        cls.stack = contextlib.ExitStack()
        cls.addClassCleanup(cls.stack.close)
        cls.url = cls.stack.enter_context(serve(url_variable="DUO_PAGE_URL"))
        cls.model = get(cls.url + "/v1/status")["model"]
        playwright = cls.stack.enter_context(sync_playwright())
        args = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has no sandbox for root
        cls.browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        cls.stack.callback(cls.browser.close)

    def open(self, viewport=DESKTOP, url=None, scheme="light", may_fail=None, prepare=None):
        """may_fail: a pattern of console errors that the test causes. prepare: called with the page before it loads."""
        self.origin = url or self.url
        context = self.browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        self.addCleanup(context.close)
        self.page = page = context.new_page()
        page.set_default_timeout(HANG_SECONDS * 1000)
        expect.set_options(timeout=HANG_SECONDS * 1000)
        self.troubles = []
        page.on("console", lambda m: self.note_console(m, may_fail))
        page.on("pageerror", lambda error: self.troubles.append("page error: %s" % error))
        page.on("request", self.note_request)
        if prepare:
            prepare(page)
        page.goto(self.origin + "/")
        return page

    def note_console(self, message, may_fail):
        if message.type in ("error", "warning") and not (may_fail and re.search(may_fail, message.text)):
            self.troubles.append("console: " + message.text)

    def note_request(self, request):
        if not request.url.startswith((self.origin + "/", "data:")):
            self.troubles.append("request to " + request.url)

    def open_connected(self, **kwargs):
        page = self.open(**kwargs)
        expect(page.locator("#connection")).to_have_text("connected")
        return page

    def tearDown(self):
        self.assertEqual(getattr(self, "troubles", []), [])

    def shot(self, name):
        if SHOTS:
            os.makedirs(SHOTS, exist_ok=True)
            self.page.screenshot(path=os.path.join(SHOTS, name + ".png"), full_page=True)

    def drop(self, text, name="farm.txt"):
        transfer = self.page.evaluate_handle(
            "([text, name]) => { const d = new DataTransfer(); d.items.add(new File([text], name)); return d; }",
            [text, name])
        self.page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
        self.page.dispatch_event("body", "drop", {"dataTransfer": transfer})
        expect(self.page.locator("#document-name")).to_have_text(name)

    def endless(self, max_tokens):
        """Answers after this call continue past the model's end-of-text token, up to max_tokens."""

        def rewrite(route):
            body = json.loads(route.request.post_data)
            body.setdefault("duo", {})["ignore_eos"] = True
            body["max_completion_tokens" if "messages" in body else "max_tokens"] = max_tokens
            body.pop("stop", None)
            route.continue_(post_data=json.dumps(body))

        self.page.route("**/completions", rewrite)

    def ask(self, question, state="done"):
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")
        self.wait_for_columns(state)

    def wait_for_columns(self, state):
        for column in self.page.locator(".turn").first.locator(".column").all():
            expect(column).to_have_attribute("data-state", state)

    def figure(self, column, label):
        return column.locator(".figure", has=self.page.get_by_text(label, exact=True)).locator("dd").inner_text()

    def assert_no_horizontal_scroll(self):
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        self.assertLessEqual(wide, 0)


def main():
    global DUO
    if len(sys.argv) < 2:
        sys.exit("usage: %s PATH/TO/duo [unittest arguments]" % sys.argv[0])
    DUO = os.path.abspath(sys.argv.pop(1))
    if sync_playwright is None or CHROMIUM is None:
        print("SKIPPED: no %s" % ("playwright" if sync_playwright is None else "chromium"))
        sys.exit(0)
    unittest.main()

