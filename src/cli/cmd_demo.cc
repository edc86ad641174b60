// duo demo: the main job on the embedded model. It asks for facts hidden in a long text with full attention, with the
// split cache, and with as many heads chosen at random.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/memory_info.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "eval/demo.h"

namespace duo::cli {
namespace {

constexpr int64_t kDefaultTokens = 16384;
constexpr int kDefaultFacts = 8;
constexpr int64_t kMaxTokens = 48;

struct DemoOptions {
  CommonOptions common;
  std::optional<int64_t> tokens;
  std::optional<int> facts;
  std::string text;               // file with the user's own text; "-" = standard input
  std::vector<std::string> asks;  // the questions for it
  int64_t max_tokens = 0;  // 0 = kMaxTokens for the user's text, else a little more than the longest expected answer
};

/// Sets the defaults that let `duo demo` run without flags. kInvalidArgument when there is nothing to compare.
Result<CommonOptions> ResolveCommon(const DemoOptions& options) {
  CommonOptions common = options.common;
  if (common.model.empty()) common.model = "demo";
  if (common.pattern.empty() && common.model == "demo") common.pattern = "demo";
  if (common.pattern.empty() || common.pattern == "none") {
    return InvalidArgument(
        "--pattern: a directory is needed, because the demo compares full attention with the split cache");
  }
  if (!common.sparsity && !common.threshold) common.sparsity = 0.5;
  return common;
}

Result<DemoInput> MakeUserInput(const DemoOptions& options, const Tokenizer& tokenizer) {
  DUO_ASSIGN_OR_RETURN(std::string text, ReadTextFile(options.text));
  if (text.empty()) return InvalidArgument("--text-file: {} is empty", options.text);
  if (text.back() != '\n') text += "\n\n";
  DemoInput input;
  input.max_tokens = kMaxTokens;
  input.text = tokenizer.Encode(text);
  for (const std::string& ask : options.asks) {
    // A question of one line gets the cue that the embedded model knows.
    const bool has_cue = ask.find('\n') != std::string::npos;
    input.questions.push_back({has_cue ? ask : ask + "\nAnswer: ", std::nullopt, 0});
  }
  return input;
}

// ---- output for people

/// Breaks `text` at spaces, so that no line is longer than the terminal. Lines after the first begin with `indent`
/// spaces. Every character takes one column.
std::string Wrap(std::string_view text, int64_t indent, int64_t columns) {
  std::string out;
  int64_t used = indent;
  while (!text.empty()) {
    const size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    if (used > indent && used + 1 + CountCharacters(word) > columns) {
      out += "\n" + std::string(indent, ' ');
      used = indent;
    } else if (!out.empty()) {
      out += ' ';
      ++used;
    }
    out += word;
    used += CountCharacters(word);
    text.remove_prefix(space == std::string_view::npos ? text.size() : space + 1);
  }
  return out;
}

constexpr int64_t kAnswerColumn = 14;

std::string AnswerLine(const std::string& name, const DemoQuestion& question, const DemoAnswer& answer,
                       int64_t columns) {
  std::string mark = " ";
  if (question.expected) {
    mark = answer.hit ? "✓" : "✗";
    if (StdoutHasColour()) mark = fmt::format("\x1b[{}m{}\x1b[0m", answer.hit ? 32 : 31, mark);
  }
  const std::string text = answer.text.empty() ? "(nothing)" : answer.text;
  return fmt::format("   {:<8} {} {}\n", name, mark, Wrap(text, kAnswerColumn, columns));
}

std::string QuestionBlock(size_t i, const DemoInput& input, const std::vector<DemoMode>& modes, int64_t columns) {
  const DemoQuestion& question = input.questions[i];
  std::string first_line = question.prompt.substr(0, question.prompt.find('\n'));
  std::string out = fmt::format("{:>2} {}\n", i + 1, Wrap(first_line, 3, columns));
  if (question.expected) {
    out += fmt::format(
        "   {:<8}   {}\n", "expected",
        Wrap(fmt::format("{}  (at {:.0f} %)", *question.expected, 100 * question.depth), kAnswerColumn, columns));
  }
  for (const DemoMode& mode : modes) out += AnswerLine(mode.name, question, mode.answers[i], columns);
  return out;
}

std::string NumbersTable(const std::vector<DemoMode>& modes, bool with_hits, size_t n_questions) {
  std::string out = fmt::format("{:<22}", "");
  for (const DemoMode& mode : modes) out += fmt::format("{:>16}", mode.name);
  out += "\n";
  const auto row = [&](const char* what, const auto& cell) {
    out += fmt::format("{:<22}", what);
    for (const DemoMode& mode : modes) out += fmt::format("{:>16}", cell(mode));
    out += "\n";
  };
  if (with_hits) row("hits", [&](const DemoMode& m) { return fmt::format("{} of {}", m.hits, n_questions); });
  row("KV memory", [](const DemoMode& m) { return FormatBytes(m.kv_bytes); });
  row("time to first token", [](const DemoMode& m) { return FormatDuration(m.time_to_first_token_s); });
  row("prefill tokens/s", [](const DemoMode& m) { return FormatCount(static_cast<int64_t>(m.prefill_tokens_per_s)); });
  row("decode tokens/s", [](const DemoMode& m) { return FormatCount(static_cast<int64_t>(m.decode_tokens_per_s)); });
  return out;
}

std::string ClosingSentence(const std::vector<DemoMode>& modes, bool with_hits, size_t n_questions) {
  const DemoMode &full = modes[0], &duo = modes[1], &random = modes[2];
  const double share = 100.0 * static_cast<double>(duo.kv_bytes) / static_cast<double>(full.kv_bytes);
  if (!with_hits) {
    return fmt::format(
        "With {:.0f} % of the KV heads streaming, the split cache took {:.0f} % of full attention's KV memory.",
        100 * duo.sparsity, share);
  }
  std::string out = fmt::format(
      "With {:.0f} % of the KV heads streaming, the split cache answered {} of {} questions from {:.0f} % of "
      "full attention's KV memory (full attention: {}); as many heads chosen at random answered {}.",
      100 * duo.sparsity, duo.hits, n_questions, share, full.hits, random.hits);
  if (random.hits >= duo.hits && duo.hits > 0) {
    out += " That draw was lucky and kept the heads that matter; another --seed draws others.";
  }
  if (full.hits * 4 < static_cast<int>(n_questions) * 3) {
    out += " Full attention missed many itself: this text is beyond what the model can do.";
  } else if (duo.hits * 4 < full.hits * 3) {
    out += " That is much less than full attention: try a lower --sparsity.";
  }
  return out;
}

std::string Heading(const LoadedModel& loaded, const DemoInput& input, const DemoOptions& options) {
  const ModelConfig& c = loaded.model.config();
  const HeadChoice& heads = loaded.session.heads;
  const auto n_heads = static_cast<int>(heads.retrieval.size());
  std::string out = fmt::format("{}: {} layers x {} KV heads; {}\n", c.name, c.n_layers, c.n_kv_heads,
                                DescribeBackend(*loaded.backend));
  out += options.text.empty()
             ? fmt::format("text: {} tokens, {} facts hidden in it (seed {})\n", FormatCount(std::ssize(input.text)),
                           input.questions.size(), options.common.seed)
             : fmt::format("text: {}, {} tokens\n", options.text, FormatCount(std::ssize(input.text)));
  out += fmt::format("full: all {} KV heads keep every token\n", n_heads);
  out += fmt::format("duo: {} of {} keep the first {} and last {} tokens (chosen by learned gates)\n",
                     n_heads - heads.n_retrieval(), n_heads, loaded.session.sink, loaded.session.recent);
  out += fmt::format("random: {} of {} keep the same tokens (chosen at random, seed {})\n\n",
                     n_heads - heads.n_retrieval(), n_heads, options.common.seed);
  return out;
}

Status PrintTables(const DemoInput& input, const DemoOptions& options, const std::vector<DemoMode>& modes) {
  const int64_t columns = std::clamp(StdoutColumns(), 40, 200);
  const bool with_hits = options.text.empty() && !input.questions.empty();
  std::string out;
  for (size_t i = 0; i < input.questions.size(); ++i) out += QuestionBlock(i, input, modes, columns);
  return WriteOut(out + "\n" + NumbersTable(modes, with_hits, input.questions.size()) + "\n" +
                  Wrap(ClosingSentence(modes, with_hits, input.questions.size()), 0, columns) + "\n");
}

Json DemoJson(const LoadedModel& loaded, const DemoInput& input, const DemoOptions& options,
              const std::vector<DemoMode>& modes) {
  Json questions = Json::array();
  for (size_t i = 0; i < input.questions.size(); ++i) {
    const DemoQuestion& question = input.questions[i];
    Json entry = {
        {"question", question.prompt}, {"expected", nullptr}, {"depth", nullptr}, {"answers", Json::object()}};
    if (question.expected) entry["expected"] = *question.expected;
    if (question.expected) entry["depth"] = question.depth;
    for (const DemoMode& mode : modes) {
      entry["answers"][mode.name] = {{"text", mode.answers[i].text}};
      if (question.expected) entry["answers"][mode.name]["hit"] = mode.answers[i].hit;
    }
    questions.push_back(std::move(entry));
  }
  Json by_mode = Json::object();
  for (const DemoMode& mode : modes) {
    by_mode[mode.name] = {{"sparsity", mode.sparsity},
                          {"kv_bytes", mode.kv_bytes},
                          {"time_to_first_token_s", mode.time_to_first_token_s},
                          {"prefill_tokens_per_s", mode.prefill_tokens_per_s},
                          {"decode_tokens_per_s", mode.decode_tokens_per_s}};
    if (options.text.empty()) by_mode[mode.name]["hits"] = mode.hits;
  }
  return {{"model", loaded.model.config().name},  {"backend", DescribeBackend(*loaded.backend)},
          {"text_tokens", input.text.size()},     {"seed", options.common.seed},
          {"heads", HeadsJson(modes[1].session)}, {"questions", std::move(questions)},
          {"modes", std::move(by_mode)}};
}

Status RunDemo(const DemoOptions& options) {
  DUO_ASSIGN_OR_RETURN(const CommonOptions common, ResolveCommon(options));
  DUO_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(common));
  DUO_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Open(loaded.dir));
  DUO_ASSIGN_OR_RETURN(DemoInput input, options.text.empty()
                                            ? MakeBookInput(tokenizer, options.tokens.value_or(kDefaultTokens),
                                                            options.facts.value_or(kDefaultFacts), common.seed)
                                            : MakeUserInput(options, tokenizer));
  if (options.max_tokens > 0) input.max_tokens = options.max_tokens;
  if (!common.json) DUO_RETURN_IF_ERROR(WriteOut(Heading(loaded, input, options)));

  SessionOptions full = loaded.session, random = loaded.session;
  full.heads = {};
  DUO_ASSIGN_OR_RETURN(random.heads, RandomHeadsLike(loaded.session.heads, common.seed));
  DUO_RETURN_IF_ERROR(WarmUpDemo(loaded.model, loaded.session, input));
  std::vector<DemoMode> modes;
  const auto run = [&](const char* name, const SessionOptions& session) -> Status {
    ProgressBar bar(common.progress, name);
    DUO_ASSIGN_OR_RETURN(DemoMode mode, RunDemoMode(name, loaded.model, tokenizer, session, input, bar.Callback(),
                                                    [] { return !Interrupted(); }));
    modes.push_back(std::move(mode));
    return OkStatus();
  };
  DUO_RETURN_IF_ERROR(run("full", full));
  DUO_RETURN_IF_ERROR(run("duo", loaded.session));
  DUO_RETURN_IF_ERROR(run("random", random));
  return common.json ? PrintJson(DemoJson(loaded, input, options, modes)) : PrintTables(input, options, modes);
}

}  // namespace

void AddDemo(CLI::App* app, VerbFunction* run) {
  CLI::App* verb =
      app->add_subcommand("demo", "Ask for facts hidden in a long text: full attention and duo side by side.");
  auto options = std::make_shared<DemoOptions>();
  AddCommonOptions(verb, &options->common);
  AddInt(verb, "--tokens", {64, int64_t{1} << 30}, &options->tokens, "Length of the generated text in tokens.")
      ->default_str(std::to_string(kDefaultTokens));
  AddInt(verb, "--facts", {1, kMaxBookFacts}, &options->facts,
         "Facts hidden in the generated text; each is asked for once.")
      ->default_str(std::to_string(kDefaultFacts));
  CLI::Option* text = AddText(verb, "--text-file", &options->text, "a file",
                              "File with a text of your own instead of the generated one; - is standard input.")
                          ->type_name("FILE")
                          ->excludes("--tokens")
                          ->excludes("--facts");
  AcceptOldName(verb, "--text", text);
  CLI::Option* ask = AddTexts(verb, "--ask", &options->asks,
                              "Question about --text-file; may be given several times. \"\\nAnswer: \" is added to a "
                              "question of one line.");
  text->needs(ask);
  ask->needs(text);
  AddInt(verb, "--max-tokens", {1, 100000}, &options->max_tokens,
         "Max tokens of an answer, which also ends at a newline (default: a little more than expected; 48 with "
         "--text-file).");
  verb->footer(
      "Without --model and --pattern the embedded model and its pattern are used, at sparsity 0.5.\n"
      "Example:\n"
      "  duo demo --seed 3");
  verb->callback([options, run] { *run = [options] { return RunDemo(*options); }; });
}

}  // namespace duo::cli
