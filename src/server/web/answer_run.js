// One streamed answer: its text, its times, and the figures that follow from them. Does not depend on the page.

import { fetchStatus, streamAnswer } from "./api.js";

const now_ms = () => performance.now();

function freshFigures() {
  return { first_token_ms: NaN, tokens_per_s: NaN, kv_bytes: NaN, cached_tokens: NaN, prompt_tokens: NaN,
           generated_tokens: NaN };
}

export class AnswerRun {
  /** on_update: called with this run after every piece that arrives. */
  constructor(request, on_update) {
    this.request = request;
    this.on_update = on_update;
    this.state = "waiting";  // then: sent, prefill, decode, done, stopped, failed
    this.text = "";
    this.finish = null;
    this.error = null;
    this.prefill = null;
    this.figures = freshFigures();
    this.sparsity = null;
    this.has_server_speed = false;
  }

  async run(signal) {
    this.sent_ms = now_ms();
    this.#become("sent");
    try {
      for await (const part of streamAnswer(this.request, signal)) this.#take(part);
      await this.#askForMemory();
      this.#become("done");
    } catch (error) {
      this.error = error.name === "AbortError" ? null : error;
      this.#become(this.error ? "failed" : "stopped");
    }
  }

  get is_over() {
    return ["done", "stopped", "failed"].includes(this.state);
  }

  #become(state) {
    this.state = state;
    this.on_update(this);
  }

  #take(part) {
    if (part.prefill) {
      this.#takePrefill(part.prefill);
    } else {
      this.#takeChunk(part);
    }
    this.on_update(this);
  }

  /** Estimates the time left from the second report on, because the first may count a prefix that was reused. */
  #takePrefill({ n_read, n_prompt }) {
    this.state = "prefill";
    this.prefill_start ??= { n_read, at_ms: now_ms() };
    const { n_read: n_start, at_ms } = this.prefill_start;
    const left_ms = n_read > n_start ? ((now_ms() - at_ms) * (n_prompt - n_read)) / (n_read - n_start) : NaN;
    this.prefill = { n_read, n_prompt, left_ms };
  }

  #takeChunk({ id, text, finish, usage, duo }) {
    this.id = id ?? this.id;
    this.finish = finish ?? this.finish;
    if (text !== "") this.#takeText(text);
    if (usage) this.#takeUsage(usage);
    if (duo) this.#takeDuo(duo);
  }

  #takeText(text) {
    const { figures } = this;
    if (this.text === "") {
      this.first_ms = now_ms();
      figures.first_token_ms = this.first_ms - this.sent_ms;
      figures.generated_tokens = 0;
    }
    this.state = "decode";
    this.text += text;
    figures.generated_tokens += 1;  // a chunk is about one token; the usage gives the number later
    this.#setSpeed(figures.generated_tokens);
  }

  #setSpeed(n_tokens) {
    const decode_s = (now_ms() - this.first_ms) / 1000;
    if (!this.has_server_speed && n_tokens > 1 && decode_s > 0) this.figures.tokens_per_s = (n_tokens - 1) / decode_s;
  }

  #takeUsage(usage) {
    const { figures } = this;
    figures.prompt_tokens = usage.prompt_tokens;
    figures.cached_tokens = usage.prompt_tokens_details?.cached_tokens ?? NaN;
    figures.generated_tokens = usage.completion_tokens;
    this.#setSpeed(usage.completion_tokens);
  }

  #takeDuo(duo) {
    const { figures } = this;
    figures.kv_bytes = duo.kv_bytes ?? figures.kv_bytes;
    // The server measures only decode steps. The browser's own figure includes the transfer.
    this.has_server_speed = duo.timings?.decode_tokens_per_s > 0;
    if (this.has_server_speed) figures.tokens_per_s = duo.timings.decode_tokens_per_s;
    this.sparsity = duo.sparsity ?? this.sparsity;
  }

  /** Takes the memory from the server's list of sequences when the last chunk lacks the key "duo". */
  async #askForMemory() {
    if (Number.isFinite(this.figures.kv_bytes) || !this.id) return;
    const status = await fetchStatus().catch(() => null);
    const sequence = status?.sequences.find(({ id }) => id === this.id);
    this.figures.kv_bytes = sequence?.kv_bytes ?? NaN;
  }
}
