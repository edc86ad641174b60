// The settings form. The API key is kept only in sessionStorage, so it is gone when the tab is closed.

import { setApiKey } from "./api.js";
import { byId, setText } from "./dom.js";

const KEY_ITEM = "duo.api_key";

export class Settings {
  /** on_change: called when the sparsity changes. on_key: called when another key was entered. */
  constructor({ on_change, on_key }) {
    this.server_sparsity = null;
    this.sparsity = byId("sparsity");
    this.sparsity.addEventListener("input", () => {
      this.#showSparsity();
      on_change();
    });
    byId("settings").addEventListener("submit", (event) => event.preventDefault());
    this.#listenToKey(on_key);
  }

  #listenToKey(on_key) {
    const key = byId("key");
    key.value = sessionStorage.getItem(KEY_ITEM) ?? "";
    setApiKey(key.value);
    key.addEventListener("input", () => setApiKey(key.value.trim()));
    key.addEventListener("change", () => {
      sessionStorage.setItem(KEY_ITEM, key.value.trim());
      on_key();
    });
    // Without a submit button, Enter in a field does not always fire "change" before the next request.
    key.addEventListener("keydown", (event) => {
      if (event.key === "Enter") key.blur();
    });
  }

  /** Shows the settings that the server supports. Called whenever the page sees another model or pattern. */
  configure({ model, pattern }) {
    byId("max-tokens").max = model.max_context;
    byId("conversation-field").hidden = model.chat === null;
    byId("line-field").hidden = model.chat !== null;
    byId("sparsity-field").hidden = pattern === null;
    this.server_sparsity = pattern?.sparsity ?? null;
    if (pattern) this.sparsity.value = pattern.sparsity;
    this.#showSparsity();
  }

  #isServers() {
    return this.server_sparsity === null
      || Math.abs(Number(this.sparsity.value) - this.server_sparsity) <= Number(this.sparsity.step) / 2;
  }

  #showSparsity() {
    const text = Number(this.sparsity.value).toFixed(2);
    setText(byId("sparsity-value"), text);
    this.sparsity.setAttribute("aria-valuetext", text);
    setText(byId("sparsity-note"), this.#isServers()
      ? "The server's own choice. 0 is full attention; a higher value saves memory and time."
      : `Differs from the server's ${this.server_sparsity.toFixed(2)}, so the document is read again.`);
  }

  /** Shows the first setting that is out of range. Returns true when there is none. */
  check() {
    const invalid = byId("settings").querySelector("input:invalid");
    if (invalid?.closest("details")) byId("access").open = true;
    invalid?.reportValidity();
    return !invalid;
  }

  get values() {
    return {
      sparsity: this.#isServers() ? null : Number(this.sparsity.value),
      max_tokens: Number(byId("max-tokens").value),
      temperature: Number(byId("temperature").value),
      conversation: byId("conversation").checked,
      one_line: byId("one-line").checked,
      session: byId("session").value.trim(),
    };
  }

  focusKey() {
    byId("access").open = true;
    byId("key").focus();
    byId("key").select();
  }
}
