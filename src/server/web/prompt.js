// Makes request bodies. The document always comes first, and nothing that changes comes before it. So every question
// about it shares the longest prefix with the question before, and the server reads the document once.

const SESSION_SUFFIX_FULL = ".full";

const joined = (document_text, separator, question) =>
  document_text === "" ? question : document_text + separator + question;

/** Returns [user, assistant, user, ...]. history: [{question, answer}] of the same document and kind of attention. */
function chatMessages(document_text, history, question) {
  const questions = [...history.map((turn) => turn.question), question];
  return questions.flatMap((text, i) => {
    const content = i === 0 ? joined(document_text, "\n\n", text) : text;
    const user = { role: "user", content };
    return i < history.length ? [user, { role: "assistant", content: history[i].answer }] : [user];
  });
}

/** Sequences of full and split attention differ, so they cannot share a name. */
function sessionName(settings, mode, has_pattern) {
  if (settings.session === "") return {};
  return { cache: settings.session + (mode === "full" && has_pattern ? SESSION_SUFFIX_FULL : "") };
}

function duoOptions(settings, mode, has_pattern) {
  const split = mode === "split" && settings.sparsity !== null ? { sparsity: settings.sparsity } : {};
  const full = mode === "full" && has_pattern ? { pattern: "none" } : {};
  return { ...split, ...full, ...sessionName(settings, mode, has_pattern) };
}

/** Returns the {path, body} of one question. mode: "full" or "split". */
export function answerRequest({ status, settings, mode, document_text, history, question }) {
  const duo = duoOptions(settings, mode, status.pattern !== null);
  const common = {
    temperature: settings.temperature,
    stream: true,
    stream_options: { include_usage: true },
    ...(Object.keys(duo).length === 0 ? {} : { duo }),
  };
  if (status.model.chat === null) {
    const prompt = joined(document_text, "\n", question);
    const stop = settings.one_line ? { stop: "\n" } : {};
    return { path: "v1/completions", body: { prompt, max_tokens: settings.max_tokens, ...stop, ...common } };
  }
  const messages = chatMessages(document_text, settings.conversation ? history : [], question);
  return { path: "v1/chat/completions", body: { messages, max_completion_tokens: settings.max_tokens, ...common } };
}
