// Sends questions, shows their answers in one column or two, and keeps what follow-ups need.

import { AnswerColumn, MODE_NAMES } from "./answer_column.js";
import { AnswerRun } from "./answer_run.js";
import { comparison } from "./comparison.js";
import { attributes, byId, element } from "./dom.js";
import { answerRequest } from "./prompt.js";

const COLUMNS_OF_MODE = { split: ["split"], full: ["full"], both: ["full", "split"] };

export class Turns {
  #abort = null;
  #n_turns = 0;

  /** on_running: called with true when a question is sent, and with false when all its answers are over. */
  constructor({ on_running, on_key }) {
    this.on_running = on_running;
    this.on_key = on_key;
    this.forget();
    byId("clear").addEventListener("click", () => this.#clear());
  }

  get is_running() {
    return this.#abort !== null;
  }

  /** Forgets earlier questions and answers, so that follow-ups do not see them. */
  forget() {
    this.history = { full: [], split: [] };
  }

  stop() {
    this.#abort?.abort();
  }

  #clear() {
    if (this.is_running) return;
    byId("turns").replaceChildren();
    this.forget();
    this.#showWhetherEmpty();
    byId("question").focus();
  }

  #showWhetherEmpty() {
    const is_empty = byId("turns").childElementCount === 0;
    byId("answers-empty").hidden = !is_empty;
    byId("clear").hidden = is_empty;
  }

  /** Asks in every column of the mode. Resolves to true when no column failed. */
  async ask({ status, settings, mode, together, doc, question }) {
    this.#abort = new AbortController();
    this.on_running(true);
    const modes = COLUMNS_OF_MODE[mode];
    const columns = modes.map((name, i) => new AnswerColumn(name, {
      waits_for: i > 0 && !together ? MODE_NAMES[modes[i - 1]] : null,
      on_key: this.on_key,
    }));
    const turn = this.#showTurn(question, doc, columns);
    const ask_column = (column) => this.#askColumn(column, { status, settings, doc, question });
    if (together) await Promise.all(columns.map(ask_column));
    else for (const column of columns) await ask_column(column);
    this.#showComparison(turn, columns);
    this.#abort = null;
    this.on_running(false);
    return columns.every((column) => column.run?.state !== "failed");
  }

  #showTurn(question, doc, columns) {
    this.#n_turns += 1;
    const about = doc.name === "" ? "without a document" : doc.name;
    const heading = attributes(element("h3.question", question), { id: `turn-${this.#n_turns}` });
    const grid = element(columns.length > 1 ? "div.columns.two" : "div.columns", ...columns.map(({ node }) => node));
    const turn = element("article.turn", element("p.about", `${this.#n_turns} · ${about}`), heading, grid);
    byId("turns").prepend(attributes(turn, { "aria-labelledby": heading.id }));
    this.#showWhetherEmpty();
    // Only the first column: on a phone, the Stop button above it stays visible.
    columns[0].node.scrollIntoView({ block: "nearest" });
    return turn;
  }

  async #askColumn(column, { status, settings, doc, question }) {
    const { signal } = this.#abort;
    if (signal.aborted) return column.skip();
    const history = this.history[column.mode];
    const request = answerRequest({ status, settings, mode: column.mode, document_text: doc.text, history, question });
    const run = new AnswerRun(request, (changed) => column.update(changed));
    await run.run(signal);
    if (run.text !== "" && run.state !== "failed") history.push({ question, answer: run.text });
  }

  #showComparison(turn, columns) {
    const [full, split] = columns;
    if (!split || [full, split].some((column) => column.run?.state !== "done")) return;
    full.compareWith(split);
    split.compareWith(full);
    const node = comparison(split.run.figures, full.run.figures);
    if (node) turn.append(node);
  }
}
