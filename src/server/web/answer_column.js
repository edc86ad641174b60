// One answer on the page: its text as it streams in, progress of the prefill, figures and errors.

import { longEnough } from "./comparison.js";
import { attributes, element, setShare, setText } from "./dom.js";
import { explain } from "./errors.js";
import { bytes, count, digits, milliseconds } from "./format.js";

export const MODE_NAMES = { full: "Full attention", split: "Split attention" };

const FOLLOW_PIXELS = 40;

const FIGURES = [
  ["first_token_ms", "First token", milliseconds],
  ["tokens_per_s", "Tokens/s", digits],
  ["kv_bytes", "KV memory", bytes],
  ["cached_tokens", "Reused tokens", count],
  ["prompt_tokens", "Prompt tokens", count],
  ["generated_tokens", "Answer tokens", count],
];

const FIGURE_TITLES = {
  first_token_ms: "Time to first token: from sending the question to the first text, measured in this browser",
  tokens_per_s: "Tokens per second after the first one",
  kv_bytes: "KV memory that the sequence holds",
  cached_tokens: "Tokens of the prompt that were in the cache already and were not read again",
};

function makeFigure([name, label]) {
  const value = element("dd");
  const bar = attributes(element("span.bar"), { "aria-hidden": "true" });
  const node = element("div.figure", element("dt", label), value, bar);
  if (FIGURE_TITLES[name]) node.title = FIGURE_TITLES[name];
  return { node, value, bar };
}

/** Tells the reader how an answer ended. */
function finishWords({ state, finish, text, request }) {
  if (state === "stopped") return "Stopped.";
  if (finish === "length") return "Ended at Max tokens.";
  if (text.trim() === "") return "The answer is empty.";
  return request.body.stop ? "Ended at a line break." : "Complete.";
}

function prefillWords({ n_read, n_prompt, left_ms }) {
  const left = Number.isFinite(left_ms) ? `, about ${milliseconds(left_ms)} left` : "";
  return `Reading ${count(n_read)} of ${count(n_prompt)} tokens${left}`;
}

export class AnswerColumn {
  #frame = 0;
  #shown_chars = 0;

  /** waits_for: name of the column that is asked before this one, or null. on_key: opens the API key's field. */
  constructor(mode, { waits_for, on_key }) {
    this.mode = mode;
    this.waits_for = waits_for;
    this.on_key = on_key;
    this.figures = Object.fromEntries(FIGURES.map((figure) => [figure[0], makeFigure(figure)]));
    this.#build();
  }

  #build() {
    const name = MODE_NAMES[this.mode];
    const glyph = attributes(element("span.glyph"), { "aria-hidden": "true" });
    this.detail = element("span.detail");
    this.state = element("p.state");
    this.progress = attributes(element("progress"), { max: 1, value: 0, "aria-label": `${name}: prompt read` });
    this.progress.hidden = true;
    this.answer_text = document.createTextNode("");
    this.answer = attributes(element("div.answer", this.answer_text),
                             { role: "group", "aria-label": "Answer", "aria-live": "polite", "aria-busy": "true" });
    this.error = attributes(element("div.error"), { role: "alert" });
    this.error.hidden = true;
    const list = element("dl.figures", ...FIGURES.map(([key]) => this.figures[key].node));
    this.node = attributes(
      element("section.column", element("h4", glyph, name, this.detail), this.state, this.progress, this.answer,
              this.error, list),
      { "aria-label": name, "data-mode": this.mode, "data-state": "waiting" });
    setText(this.state, this.waits_for ? `Waits for ${this.waits_for.toLowerCase()} to end.` : "Waiting.");
    this.#showFigures({});
  }

  /** Tokens may come faster than the screen shows them, so there is one update per frame. */
  update(run) {
    this.run = run;
    if (run.is_over) this.#show();
    else this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  #show() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { run } = this;
    this.node.dataset.state = run.state;
    setText(this.state, this.#stateWords());
    this.#showProgress();
    this.#appendText();
    this.#showFigures(run.figures);
    if (run.sparsity !== null && this.mode === "split") setText(this.detail, `sparsity ${run.sparsity.toFixed(2)}`);
    if (run.error) this.#showError();
    if (run.is_over) this.answer.setAttribute("aria-busy", "false");
  }

  /** A long answer scrolls in its box. The box follows the text unless the reader has scrolled up. */
  #appendText() {
    const { answer, run } = this;
    const follows = answer.scrollHeight - answer.scrollTop - answer.clientHeight < FOLLOW_PIXELS;
    this.answer_text.appendData(run.text.slice(this.#shown_chars));
    this.#shown_chars = run.text.length;
    if (follows) answer.scrollTop = answer.scrollHeight;
    if (answer.scrollHeight > answer.clientHeight) answer.tabIndex = 0;
  }

  #stateWords() {
    const { run } = this;
    if (run.state === "sent") return "Sent, waiting for the server.";
    if (run.state === "prefill") return prefillWords(run.prefill);
    if (run.state === "decode") return "Answering.";
    return run.state === "failed" ? "Failed." : finishWords(run);
  }

  #showProgress() {
    const { state, prefill } = this.run;
    this.progress.hidden = state !== "prefill";
    if (prefill) this.progress.value = prefill.n_read / prefill.n_prompt;
  }

  #showFigures(figures) {
    for (const [name, , format] of FIGURES) setText(this.figures[name].value, format(figures[name] ?? NaN));
  }

  #showError() {
    const { message, advice, wants_key } = explain(this.run.error);
    const key_button = attributes(element("button.quiet", "Go to the API key"), { type: "button" });
    key_button.addEventListener("click", this.on_key);
    this.error.replaceChildren(element("p", `${message} ${advice}`.trim()), ...(wants_key ? [key_button] : []));
    this.error.hidden = false;
  }

  /** For a question that is not sent, because the column before this one was stopped. */
  skip() {
    this.node.dataset.state = "stopped";
    this.answer.setAttribute("aria-busy", "false");
    setText(this.state, "Not asked.");
  }

  /** Shows bars of time, speed and memory, as shares of the larger value of both columns. */
  compareWith(other) {
    const speed = longEnough(this.run.figures, other.run.figures) ? ["tokens_per_s"] : [];
    for (const name of ["first_token_ms", ...speed, "kv_bytes"]) {
      const mine = this.run.figures[name];
      setShare(this.figures[name].bar, mine / Math.max(mine, other.run.figures[name]));
      this.figures[name].bar.classList.add("shown");
    }
  }
}
