// The document, which is dropped, chosen, pasted or typed. Shows its size, its tokens and the memory it will take.

import { tokenize } from "./api.js";
import { byId, setText } from "./dom.js";
import { explain } from "./errors.js";
import { bytes, count, percent } from "./format.js";
import { readTextFile, utf8Bytes } from "./text_file.js";

const COUNT_DELAY_MS = 400;
const PREVIEW_CHARS = 1500;
// A paste of this size is a document; a shorter one is left in the text box, where it can be edited.
const PASTED_DOCUMENT_CHARS = 600;

export class DocumentPanel {
  #count_timer = 0;
  #counting = new AbortController();

  /** on_change: called without arguments whenever the text changes. */
  constructor({ on_change }) {
    this.name = "";
    this.text = "";
    this.n_tokens = null;
    this.status = null;
    this.on_change = on_change;
    this.#listenToFields();
    this.#listenToDrops();
    document.addEventListener("paste", (event) => this.#paste(event));
  }

  #listenToFields() {
    byId("file").addEventListener("change", (event) => this.#takeFile(event.target.files[0]));
    byId("typed").addEventListener("input", (event) => this.#set("typed text", event.target.value, { card: false }));
    byId("document-remove").addEventListener("click", () => {
      this.clear();
      byId("typed").focus();
    });
  }

  #listenToDrops() {
    const veil = byId("drop-veil");
    const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!hasFile(event)) return;
      event.preventDefault();
      veil.hidden = false;
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) veil.hidden = true;
    });
    document.addEventListener("drop", (event) => {
      veil.hidden = true;
      if (!hasFile(event)) return;
      event.preventDefault();
      this.#takeFile(event.dataTransfer.files[0]);
    });
  }

  #paste(event) {
    const file = event.clipboardData?.files[0];
    const text = event.clipboardData?.getData("text/plain") ?? "";
    const target = event.target;
    const is_other_field = target.matches?.("input, textarea") && target.id !== "typed";
    if (is_other_field || (!file && text === "")) return;
    const is_short_addition = target.id === "typed" && (text.length < PASTED_DOCUMENT_CHARS || target.value !== "");
    if (!file && is_short_addition) return;
    event.preventDefault();
    if (file) this.#takeFile(file);
    else this.take("pasted text", text);
  }

  async #takeFile(file) {
    byId("file").value = "";
    if (!file) return;
    try {
      const { text, note } = await readTextFile(file);
      this.take(file.name, text);
      this.#note(note);
    } catch (error) {
      this.#note(error.message);
    }
  }

  take(name, text) {
    this.#set(name, text, { card: true });
    if (document.activeElement === document.body) byId("question").focus();
  }

  clear() {
    byId("typed").value = "";
    this.#set("", "", { card: false });
  }

  #set(name, text, { card }) {
    this.name = text === "" ? "" : name;
    this.text = text;
    this.n_tokens = null;
    // An element that is hidden next would lose the focus.
    const had_focus = byId("document").contains(document.activeElement);
    byId("document-empty").hidden = card;
    byId("document-card").hidden = !card;
    byId("example").hidden = card;
    byId("document-remove").hidden = !card;
    if (card && had_focus) byId("question").focus();
    this.#note("");
    this.#show(card);
    this.#countLater();
    this.on_change();
  }

  #show(card) {
    const is_empty = this.text === "";
    setText(byId("document-name"), this.name);
    byId("document-name").title = this.name;
    byId("document-facts").hidden = is_empty;
    byId("document-preview").hidden = !card;
    byId("document-preview").open = false;
    setText(byId("document-size"), bytes(utf8Bytes(this.text)));
    const rest = this.text.length > PREVIEW_CHARS ? " …" : "";
    setText(byId("document-beginning"), this.text.slice(0, PREVIEW_CHARS) + rest);
    this.showFigures();
  }

  #note(text) {
    setText(byId("document-note"), text);
  }

  #countLater() {
    clearTimeout(this.#count_timer);
    this.#counting.abort();
    this.#counting = new AbortController();
    if (this.text !== "") this.#count_timer = setTimeout(() => this.recount(), COUNT_DELAY_MS);
  }

  async recount() {
    if (this.text === "" || this.n_tokens !== null) return;
    const { text } = this;
    try {
      const { count: n_tokens } = await tokenize(text, this.#counting.signal);
      if (text !== this.text) return;
      this.n_tokens = n_tokens;
      this.showFigures();
    } catch (error) {
      if (error.name === "AbortError") return;
      const { message, advice } = explain(error);
      setText(byId("document-tokens"), "not known");
      this.#note(`Tokens could not be counted. ${message} ${advice}`);
    }
  }

  setStatus(status) {
    this.status = status;
    this.showFigures();
  }

  showFigures() {
    const share = this.n_tokens / this.status?.model.max_context;
    setText(byId("document-tokens"), this.n_tokens === null ? "counting" : count(this.n_tokens));
    setText(byId("document-share"), this.n_tokens === null || !this.status ? percent(NaN)
      : `${percent(share)} of ${count(this.status.model.max_context)}`);
    setText(byId("document-memory"), this.#memoryText());
    byId("document-share").classList.toggle("too-much", share >= 1);
    if (share >= 1) this.#note("The document is longer than the model's context, so the server will refuse it.");
  }

  #memoryText() {
    if (this.n_tokens === null || !this.status) return bytes(NaN);
    const { kv_bytes_per_token: per_token, kv_fixed_bytes: fixed } = this.status.memory;
    const full_bytes = this.n_tokens * per_token.full + fixed.full;
    if (this.status.pattern === null) return bytes(full_bytes);
    // A text shorter than the windows does not fill them.
    const split_bytes = Math.min(full_bytes, this.n_tokens * per_token.duo + fixed.duo);
    return `${bytes(split_bytes)} split, ${bytes(full_bytes)} full`;
  }
}
