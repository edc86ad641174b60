// Asks again and again while the tab is visible: the next time a while after the last answer, never two at once.

const PERIOD_MS = 1000;

export class Poll {
  #timer = 0;
  #is_asking = false;
  #is_wanted = false;

  /** ask: an async function; returns false when asking again makes no sense before restart(). */
  constructor(ask) {
    this.ask = ask;
    document.addEventListener("visibilitychange", () => this.restart());
  }

  restart() {
    clearTimeout(this.#timer);
    // What is under way may have been asked with the key of before.
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
