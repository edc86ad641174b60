// Asks repeatedly while the tab is visible. Each time follows a while after the last answer, so two never overlap.

const PERIOD_MS = 1000;

export class Poll {
  #timer = 0;
  #is_asking = false;
  #is_wanted = false;

  /** ask: an async function. It returns false when asking again is useless until restart(). */
  constructor(ask) {
    this.ask = ask;
    document.addEventListener("visibilitychange", () => this.restart());
  }

  restart() {
    clearTimeout(this.#timer);
    // A request in progress may have been sent with the old key, so ask again after it.
    this.#is_wanted = this.#is_asking;
    if (document.visibilityState === "visible" && !this.#is_asking) this.#once();
  }

  async #once() {
    this.#is_asking = true;
    const again = await this.ask();
    this.#is_asking = false;
    if (this.#is_wanted) this.restart();
    else if (again && document.visibilityState === "visible") this.#timer = setTimeout(() => this.#once(), PERIOD_MS);
  }
}
