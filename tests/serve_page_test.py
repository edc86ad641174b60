"""Tests the page of `duo serve` in a real browser. Usage: serve_page_test.py PATH/TO/duo [unittest arguments]

It needs the Python package playwright and Chromium (DUO_CHROMIUM, or chromium on the PATH), else it prints SKIPPED.
DUO_PAGE_URL is the address of a running server to test instead, DUO_PAGE_KEY_URL that of one with the key "sesame".
DUO_PAGE_SHOTS names a folder for screenshots."""

import json
import os
import pathlib
import re
import shlex
import shutil
import tempfile
import urllib.request

from serve_harness import wait_until
from serve_page_harness import HANG_SECONDS, PageTest, expect, get, main, serve

KEY = "sesame"
PHONE = {"width": 390, "height": 844}

PROSE = "The muddy horse feeds the golden field. The farmer grows the cow.\n"
DOCUMENT = PROSE * 60 + "The secret code of Anna is 48213.\n" + PROSE * 60
QUESTION = "What is the secret code of Anna?\nAnswer:"

CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const back = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || node.closest(".unseen, noscript") || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(back(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${node.tagName}.${node.className} ${node.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return bad;
}"""


class DocumentTest(PageTest):
    def test_dropped_file_shows_size_and_tokens(self):
        page = self.open_connected()
        self.drop(DOCUMENT)
        expect(page.locator("#document-tokens")).to_have_text(re.compile(r"^[\d,]{3,}$"))
        self.assertRegex(page.locator("#document-size").inner_text(), r"KiB$")
        self.assertRegex(page.locator("#document-memory").inner_text(), "split.*full")
        page.click("#document-remove")
        expect(page.locator("#document-empty")).to_be_visible()
        expect(page.locator("#document-facts")).to_be_hidden()

    def test_chosen_typed_and_pasted_texts_are_documents_too(self):
        page = self.open_connected()
        page.set_input_files("#file", {"name": "b.txt", "mimeType": "text/plain", "buffer": b"\xe9t\xe9 in the field"})
        expect(page.locator("#document-name")).to_have_text("b.txt")
        expect(page.locator("#document-note")).to_contain_text("not UTF-8")
        page.click("#document-remove")
        page.fill("#typed", "The cow.")
        expect(page.locator("#document-tokens")).to_have_text(re.compile(r"^\d+$"))
        page.fill("#typed", "")
        page.evaluate("""(text) => { const d = new DataTransfer(); d.setData("text/plain", text);
            document.getElementById("typed").dispatchEvent(
                new ClipboardEvent("paste", { clipboardData: d, bubbles: true, cancelable: true })); }""", DOCUMENT)
        expect(page.locator("#document-name")).to_have_text("pasted text")

    def test_binary_file_is_refused_in_words(self):
        page = self.open_connected()
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"\x89PNG\0\0"})
        expect(page.locator("#document-note")).to_contain_text("not a text file")


class AnswerTest(PageTest):
    def test_answer_streams_and_follow_up_reuses_the_document(self):
        page = self.open_connected()
        self.drop(DOCUMENT)
        self.ask(QUESTION)
        column = page.locator(".turn").first.locator(".column")
        if self.model["chat"] is None:
            expect(column.locator(".answer")).to_contain_text("48213")
        for label in ["First token", "Tokens/s", "KV memory", "Reused tokens", "Prompt tokens"]:
            self.assertRegex(self.figure(column, label), r"\d", label)
        self.ask("What is the secret code of Boris?\nAnswer:")
        expect(page.locator(".turn")).to_have_count(2)
        reused = int(self.figure(page.locator(".turn").first.locator(".column"), "Reused tokens").replace(",", ""))
        self.assertGreater(reused, 100)
        self.shot("answers")

    def test_text_arrives_piece_by_piece_and_stop_ends_it(self):
        page = self.open_connected()
        self.endless(self.model["max_context"] - 3500)
        self.drop(DOCUMENT)
        page.evaluate("""() => { window.seen_lengths = new Set();
            new MutationObserver(() => seen_lengths.add(document.querySelector(".answer")?.textContent.length))
              .observe(document.getElementById("turns"), { subtree: true, childList: true, characterData: true }); }""")
        page.fill("#question", QUESTION)
        page.click("#send")
        expect(page.locator("#stop")).to_be_focused()
        wait_until(lambda: page.evaluate("seen_lengths.size") > 4, "a fifth part of the answer")
        page.keyboard.press("Enter")
        self.wait_for_columns("stopped")
        expect(page.locator("#question")).to_be_focused()
        text = page.locator(".answer").inner_text()
        wait_until(lambda: all(s["state"] == "kept" for s in get(self.url + "/v1/status")["sequences"]),
                   "no sequence runs")  # fmt: skip
        self.assertEqual(page.locator(".answer").inner_text(), text)

    def test_side_by_side_compares_figures(self):
        page = self.open_connected()
        self.endless(60)
        self.drop(DOCUMENT)
        page.check("#mode-both")
        expect(page.locator("#order-note")).to_contain_text("one after the other")
        for together in [False, True]:
            page.set_checked("#together", together)
            self.ask(QUESTION)
            full, split = page.locator(".turn").first.locator(".column").all()
            self.assertEqual((full.get_attribute("data-mode"), split.get_attribute("data-mode")), ("full", "split"))
            for column in [full, split]:
                for label in ["First token", "Tokens/s", "KV memory", "Reused tokens", "Prompt tokens"]:
                    self.assertRegex(self.figure(column, label), r"\d", label)
                self.assertEqual(self.figure(column, "Answer tokens"), "60")
            expect(page.locator(".turn").first.locator(".comparison")).to_contain_text("times less")
            if not together:
                self.shot("side_by_side")

    def test_speeds_of_short_answers_are_not_compared(self):
        page = self.open_connected()
        self.drop(DOCUMENT)
        page.check("#mode-both")
        for n_tokens, compared in [(63, False), (64, True)]:
            page.unroute_all()
            self.endless(n_tokens)
            self.ask(QUESTION)
            turn = page.locator(".turn").first
            self.assertEqual(self.figure(turn.locator(".column").first, "Answer tokens"), str(n_tokens))
            comparison = turn.locator(".comparison")
            expect(comparison).to_contain_text("KV memory")
            expect(comparison.locator("li", has_text="Answer")).to_have_count(1 if compared else 0)
            expect(comparison.locator("p", has_text="Speeds are compared")).to_have_count(0 if compared else 1)
            bar = turn.locator(".figure", has=page.get_by_text("Tokens/s", exact=True)).first.locator(".bar")
            expect(bar).to_have_class("bar shown" if compared else "bar")

    def test_answers_are_text_and_never_markup(self):
        page = self.open_connected(prepare=lambda p: p.route("**/completions", lambda route: route.fulfill(
            content_type="text/event-stream",
            body='data: {"id":"x","choices":[{"text":"<b>&amp;</b>","delta":{"content":"<b>&amp;</b>"}}]}\r\n\r\n'
                 'data: [DONE]\r\n\r\n')))  # fmt: skip
        self.ask("Anything?")
        self.assertEqual(page.locator(".answer").inner_text(), "<b>&amp;</b>")

    def test_example_is_answered(self):
        page = self.open_connected()
        page.click("#example")
        page.press("#question", "Enter")
        self.wait_for_columns("done")
        if self.model["chat"] is None:
            expect(page.locator(".answer")).to_contain_text("48213")


class FirstCommandTest(PageTest):
    """People try the page with the first command of docs/http_api.md."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        page = (pathlib.Path(__file__).resolve().parent.parent / "docs" / "http_api.md").read_text()
        command = re.search(r"^    duo serve (.*)$", page, re.MULTILINE).group(1)
        folder = tempfile.mkdtemp(prefix="duo_page_test_")
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        flags = shlex.split(command.replace("--session-dir sessions", "--session-dir " + folder))
        assert flags[:4] == ["--model", "demo", "--pattern", "demo"], flags
        del flags[:4], flags[flags.index("--port") : flags.index("--port") + 2]
        cls.first_url = cls.stack.enter_context(serve(*flags, url_variable="DUO_PAGE_FIRST_URL"))

    def test_example_is_answered_in_both_columns(self):
        page = self.open_connected(url=self.first_url)
        page.check("#mode-both")
        page.click("#example")
        page.press("#question", "Enter")
        self.wait_for_columns("done")
        expect(page.locator(".answer")).to_have_count(2)
        for answer in page.locator(".answer").all():
            expect(answer).to_contain_text("48213")


class ErrorTest(PageTest):
    def test_full_queue_says_when_to_come_back(self):
        page = self.open_connected(may_fail="429", prepare=lambda p: p.route("**/completions", lambda r: r.fulfill(
            status=429, headers={"Retry-After": "3", "Content-Type": "application/json"},
            body='{"error": {"message": "The queue is full.", "code": "queue_full"}}')))  # fmt: skip
        self.ask("Anything?", state="failed")
        expect(page.locator(".error")).to_have_text("The queue is full. Ask again in 3 seconds.")
        expect(page.locator("#question")).to_have_value("Anything?")

    def test_too_long_a_request_is_explained(self):
        page = self.open_connected(may_fail="400")
        page.fill("#max-tokens", str(self.model["max_context"]))
        self.ask(QUESTION, state="failed")
        expect(page.locator(".error")).to_contain_text("lower Max tokens")

    def test_broken_stream_and_lost_network_are_shown(self):
        page = self.open_connected(may_fail="ERR_INTERNET_DISCONNECTED", prepare=lambda p: p.route(
            "**/completions", lambda r: r.fulfill(content_type="text/event-stream", body=": prefill 1 of 2\n\n")))
        self.ask("Anything?", state="failed")
        expect(page.locator(".error")).to_contain_text("before the answer was complete")
        page.context.set_offline(True)
        expect(page.locator("#notice")).to_contain_text("cannot be reached")
        expect(page.locator("#connection")).to_have_text("not reachable")
        self.shot("offline")
        page.context.set_offline(False)
        expect(page.locator("#notice")).to_be_hidden()

    def test_wrong_key_is_asked_for_and_right_key_stays_in_the_tab(self):
        if os.environ.get("DUO_PAGE_URL") and not os.environ.get("DUO_PAGE_KEY_URL"):
            self.skipTest("no DUO_PAGE_KEY_URL")
        with tempfile.NamedTemporaryFile("w") as key_file:
            key_file.write(KEY + "\n")
            key_file.flush()
            with serve("--api-key-file", key_file.name, url_variable="DUO_PAGE_KEY_URL") as url:
                page = self.open(url=url, may_fail="401")
                expect(page.locator("#connection")).to_have_text("key needed")
                page.click("#notice-action")
                page.keyboard.type("wrong")
                page.keyboard.press("Enter")
                expect(page.locator("#notice")).to_contain_text("does not accept")
                self.shot("wrong_key")
                page.fill("#key", KEY)
                page.press("#key", "Enter")
                expect(page.locator("#connection")).to_have_text("connected")
                self.ask("Anything?")
                page.reload()
                expect(page.locator("#connection")).to_have_text("connected")
                self.assertEqual(page.evaluate("[localStorage.length, document.cookie]"), [0, ""])


class StatusTest(PageTest):
    def test_head_map_has_every_head_and_reads_without_colour(self):
        page = self.open_connected()
        pattern = get(self.url + "/v1/status")["pattern"]
        n_heads = sum(len(row) for row in pattern["gates"])
        n_retrieval = sum(map(sum, pattern["retrieval"]))
        cells = page.locator("#heads-grid [role=gridcell]")
        expect(cells).to_have_count(n_heads)
        self.assertEqual(page.locator("#heads-grid .retrieval").count(), n_retrieval)
        self.assertEqual(page.locator("#heads-grid .cell", has_text="R").count(), n_retrieval)
        self.assertIn("gate", cells.first.get_attribute("title"))
        expect(page.locator("#heads-summary")).to_contain_text("%d retrieval heads" % n_retrieval)
        page.locator("#heads-grid [tabindex='0']").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("End")
        last = len(pattern["gates"][0]) - 1
        expect(page.locator("#heads-readout")).to_contain_text("Layer 1, head %d" % last)

    def test_sparsity_moves_the_heads_and_goes_with_the_request(self):
        page = self.open_connected()
        bodies = []
        page.on("request", lambda r: bodies.append(json.loads(r.post_data)) if "completions" in r.url else None)
        self.ask("Anything?")
        page.focus("#sparsity")
        page.keyboard.press("End")
        expect(page.locator("#heads-grid .retrieval")).to_have_count(0)
        page.click("#access summary")
        page.fill("#session", "tale")
        page.check("#mode-both")
        self.ask("Anything?")
        self.assertEqual([body.get("duo") for body in bodies],
                         [None, {"pattern": "none", "cache": "tale.full"}, {"sparsity": 1, "cache": "tale"}])  # fmt: skip
        expect(page.locator("#sequences")).to_contain_text("tale.full")

    def test_server_without_pattern_hides_what_needs_one(self):
        def without_pattern(route):
            answer = route.fetch()
            route.fulfill(response=answer, json={**answer.json(), "pattern": None})

        page = self.open_connected(prepare=lambda p: p.route("**/v1/status", without_pattern))
        expect(page.locator("#heads-summary")).to_contain_text("without a head pattern")
        expect(page.locator("#heads-map")).to_be_hidden()
        expect(page.locator("#sparsity-field")).to_be_hidden()
        expect(page.locator("#mode-split")).to_be_disabled()
        expect(page.locator("#mode-full")).to_be_checked()
        page.unroute_all(behavior="wait")

    def test_status_is_asked_for_only_while_the_tab_is_visible(self):
        page = self.open_connected()
        asked = []
        page.on("request", lambda r: asked.append(r.url) if "v1/status" in r.url else None)
        set_visibility = """(state) => { Object.defineProperty(document, "visibilityState", { configurable: true,
            get: () => state }); document.dispatchEvent(new Event("visibilitychange")); }"""
        page.evaluate(set_visibility, "hidden")
        page.wait_for_timeout(300)
        del asked[:]
        page.wait_for_timeout(2500)
        self.assertEqual(asked, [])
        page.evaluate(set_visibility, "visible")
        wait_until(lambda: page.wait_for_timeout(50) or len(asked) >= 2, "two more requests")


class LookTest(PageTest):
    def test_every_input_has_a_label_and_every_text_contrast(self):
        for scheme in ["light", "dark"]:
            page = self.open_connected(scheme=scheme)
            page.check("#mode-both")
            self.drop(DOCUMENT)
            self.ask(QUESTION)
            self.shot("desktop_" + scheme)
            self.assertEqual(page.evaluate(CONTRAST), [], scheme)
            unlabelled = "[...document.querySelectorAll('input, textarea')].filter((e) => !e.labels.length).map((e) => e.id)"
            self.assertEqual(page.evaluate(unlabelled), [])

    def test_policy_forbids_other_origins_and_inline_code(self):
        with urllib.request.urlopen(self.url + "/", timeout=HANG_SECONDS) as response:
            policy = response.headers["Content-Security-Policy"]
        for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"]:
            self.assertIn(rule, policy)

    def test_fits_phones(self):
        for scheme, width in [("light", PHONE["width"]), ("dark", PHONE["width"]), ("light", 360)]:
            page = self.open_connected(viewport={**PHONE, "width": width}, scheme=scheme)
            self.assert_no_horizontal_scroll()
            page.check("#mode-both")
            self.drop(DOCUMENT, name="a_very_long_name_without_any_blank_" * 4 + ".txt")
            self.ask(QUESTION)
            self.assert_no_horizontal_scroll()
            self.shot("phone_%s_%d" % (scheme, width))
            small = """[...document.querySelectorAll("button, .button, input, textarea, summary")]
                .filter((e) => e.checkVisibility() && !e.matches(".unseen, [type=checkbox]"))
                .filter((e) => e.getBoundingClientRect().height < 44).map((e) => e.id)"""
            self.assertEqual(page.evaluate(small), [])

    def test_keyboard_alone_gets_an_answer(self):
        page = self.open_connected()
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#question")).to_be_focused()
        outline = "() => getComputedStyle(document.activeElement).outlineStyle"
        self.assertEqual(page.evaluate(outline), "solid")
        page.keyboard.press("Shift+Tab")
        expect(page.locator("#typed")).to_be_focused()
        page.keyboard.type("The secret code of Anna is 48213.")
        page.keyboard.press("Tab")
        page.keyboard.type("What is the secret code of Anna?")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("Answer:")
        self.assertEqual(page.input_value("#question"), QUESTION)
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#mode-both")).to_be_checked()
        page.locator("#send").focus()
        page.keyboard.press("Enter")
        self.wait_for_columns("done")
        expect(page.locator(".answer")).to_have_count(2)


if __name__ == "__main__":
    main()
