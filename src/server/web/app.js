// Puts the parts of the page together: status from the server, the question form, settings, answers.

import { fetchStatus } from "./api.js";
import { DocumentPanel } from "./document_panel.js";
import { byId, setText } from "./dom.js";
import { explain } from "./errors.js";
import { EXAMPLE_NAME, EXAMPLE_QUESTION, exampleText } from "./example.js";
import { HeadMap } from "./head_map.js";
import { Poll } from "./poll.js";
import { Settings } from "./settings.js";
import { showStatus } from "./status_view.js";
import { Turns } from "./turns.js";

let status = null;
let configured_for = "";

const question = byId("question");
const heads = new HeadMap();
const settings = new Settings({ on_change: showHeads, on_key: () => poll.restart() });
const turns = new Turns({ on_running: showRunning, on_key: () => settings.focusKey() });
const doc = new DocumentPanel({ on_change: () => turns.forget() });
const poll = new Poll(pollStatus);

function showHeads() {
  if (status) heads.show(status.pattern, settings.values.sparsity);
}

function chosenMode() {
  return status.pattern === null ? "full" : document.querySelector("input[name=mode]:checked").value;
}

function showModes() {
  const has_pattern = status.pattern !== null;
  for (const radio of document.querySelectorAll("input[name=mode]")) radio.disabled = !has_pattern;
  if (!has_pattern) byId("mode-full").checked = true;
  showOrder();
}

function showOrder() {
  byId("order").hidden = !byId("mode-both").checked;
  byId("order-note").hidden = byId("together").checked;
}

function configure() {
  settings.configure(status);
  showModes();
  setText(byId("question-shape"), status.model.chat === null
    ? "This model continues plain text: end the question with a line such as “Answer:”." : "");
}

/** A restarted server may have another model. Only then is everything that depends on the model set up again. */
function takeStatus(fresh) {
  status = fresh;
  for (const panel of document.querySelectorAll("[data-needs-status]")) panel.hidden = false;
  const { sparsity, name } = fresh.pattern ?? {};
  const identity = JSON.stringify([fresh.model, name, sparsity]);
  if (identity !== configured_for) configure();
  configured_for = identity;
  showStatus(fresh);
  showHeads();
  doc.setStatus(fresh);
}

function showConnection(state, words) {
  byId("connection").dataset.state = state;
  setText(byId("connection"), words);
}

function showNotice(text, action = null) {
  byId("notice").hidden = text === "";
  setText(byId("notice-text"), text);
  byId("notice-action").hidden = action === null;
  if (action) setText(byId("notice-action"), action);
}

async function pollStatus() {
  try {
    const had_trouble = !byId("notice").hidden;
    takeStatus(await fetchStatus());
    showConnection("up", "connected");
    showNotice("");
    if (had_trouble) doc.recount();
    return true;
  } catch (error) {
    return showTrouble(error);
  }
}

/** Returns whether the page should keep asking. It should not when a key must be entered first. */
function showTrouble(error) {
  const { message, advice, wants_key } = explain(error);
  if (wants_key) {
    showConnection("locked", "key needed");
    showNotice(`${message} ${advice}`, "Go to the API key");
    return false;
  }
  showConnection("down", "not reachable");
  const trying = " This page keeps trying.";
  showNotice(error.name === "NetworkError" ? `${message} Check that duo serve is running.${trying}` : message + trying);
  return true;
}

function showRunning(is_running) {
  // A disabled button loses the focus, so the focus moves to what the reader may want next.
  const focused = document.activeElement;
  byId("stop").disabled = !is_running;
  byId("send").disabled = is_running;
  byId("clear").disabled = is_running;
  if (is_running && focused === byId("send")) byId("stop").focus();
  if (!is_running && focused === byId("stop")) question.focus();
}

/** Returns the text to send, or null after showing what is wrong. */
function checkedQuestion() {
  if (!settings.check()) return null;
  if (question.value.trim() === "") {
    question.focus();
    return null;
  }
  return question.value;
}

async function ask() {
  if (turns.is_running) return;
  if (!status) return byId("notice-action").hidden ? undefined : settings.focusKey();
  const text = checkedQuestion();
  if (text === null) return;
  question.value = "";
  const is_answered = await turns.ask({
    status, settings: settings.values, mode: chosenMode(), together: byId("together").checked,
    doc: { name: doc.name, text: doc.text }, question: text,
  });
  if (!is_answered && question.value === "") question.value = text;
}

/** A model that only continues text needs the beginning of an answer. */
function plainTextForm(text) {
  return `${text}\nAnswer:`;
}

function listen() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  question.addEventListener("keydown", (event) => {
    // While an input method composes, Enter chooses a character.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") turns.stop();
  });
  byId("stop").addEventListener("click", () => turns.stop());
  byId("modes").addEventListener("change", showOrder);
  byId("together").addEventListener("change", showOrder);
  byId("notice-action").addEventListener("click", () => settings.focusKey());
  byId("example").addEventListener("click", () => {
    doc.take(EXAMPLE_NAME, exampleText());
    question.value = status?.model.chat ? EXAMPLE_QUESTION : plainTextForm(EXAMPLE_QUESTION);
  });
}

listen();
poll.restart();
