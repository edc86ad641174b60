#include "eval/certificate.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/fnv1a.h"

namespace duo {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;

}  // namespace

std::optional<size_t> ChooseRow(const std::vector<CertifyRow>& rows, const CertifyBounds& bounds) {
  std::optional<size_t> best;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (bounds.max_kld && !(rows[i].kld <= *bounds.max_kld)) continue;  // NaN is not within any bound
    if (bounds.min_niah && !(rows[i].niah >= *bounds.min_niah)) continue;
    if (!best || rows[i].sparsity > rows[*best].sparsity) best = i;
  }
  return best;
}

std::string HeadsFingerprint(const HeadChoice& heads) {
  Fnv1a hash;
  hash.Add(heads.retrieval.data(), heads.retrieval.size());
  return hash.Text();
}

Json ToJson(const CertifyRow& r) {
  return {{"sparsity", r.sparsity},     {"n_retrieval", r.n_retrieval},
          {"perplexity", r.perplexity}, {"kld", r.kld},
          {"kld_error", r.kld_error},   {"top1", r.top1},
          {"top1_error", r.top1_error}, {"niah", r.niah},
          {"kv_bytes", r.kv_bytes},     {"decode_ms", r.decode_ms}};
}

Result<CertifyRow> CertifyRowOf(const Json& json, const std::string& where) {
  CertifyRow r;
  DUO_ASSIGN_OR_RETURN(r.sparsity, JsonNumber(json, "sparsity", where));
  DUO_ASSIGN_OR_RETURN(const int64_t n_retrieval, JsonInt(json, "n_retrieval", where));
  r.n_retrieval = static_cast<int>(std::clamp<int64_t>(n_retrieval, 0, 1 << 30));
  DUO_ASSIGN_OR_RETURN(r.perplexity, JsonNumber(json, "perplexity", where));
  DUO_ASSIGN_OR_RETURN(r.kld, JsonNumber(json, "kld", where));
  DUO_ASSIGN_OR_RETURN(r.kld_error, JsonNumber(json, "kld_error", where));
  DUO_ASSIGN_OR_RETURN(r.top1, JsonNumber(json, "top1", where));
  DUO_ASSIGN_OR_RETURN(r.top1_error, JsonNumber(json, "top1_error", where));
  DUO_ASSIGN_OR_RETURN(r.niah, JsonNumber(json, "niah", where));
  DUO_ASSIGN_OR_RETURN(const int64_t kv_bytes, JsonInt(json, "kv_bytes", where));
  r.kv_bytes = static_cast<uint64_t>(std::max<int64_t>(kv_bytes, 0));
  DUO_ASSIGN_OR_RETURN(r.decode_ms, JsonNumber(json, "decode_ms", where));
  return r;
}

Result<Certificate> CertificateOf(const Json& json, const std::string& where) {
  Certificate c;
  DUO_ASSIGN_OR_RETURN(c.model, JsonString(json, "model", where));
  DUO_ASSIGN_OR_RETURN(c.model_fingerprint, JsonString(json, "model_fingerprint", where));
  DUO_ASSIGN_OR_RETURN(c.heads_fingerprint, JsonString(json, "heads_fingerprint", where));
  const auto heads = json.find("heads");
  if (heads == json.end()) return Corrupt("{}: heads: missing", where);
  DUO_ASSIGN_OR_RETURN(c.sink, JsonInt(*heads, "sink", where + ": heads"));
  DUO_ASSIGN_OR_RETURN(c.recent, JsonInt(*heads, "recent", where + ": heads"));
  DUO_ASSIGN_OR_RETURN(c.prefill_recent, JsonInt(*heads, "prefill_recent", where + ": heads"));
  DUO_ASSIGN_OR_RETURN(c.full_niah, JsonNumber(json, "full_niah", where));
  DUO_ASSIGN_OR_RETURN(const int64_t kv_bytes, JsonInt(json, "full_kv_bytes", where));
  c.full_kv_bytes = static_cast<uint64_t>(std::max<int64_t>(kv_bytes, 0));
  const auto chosen = json.find("chosen");
  if (chosen == json.end()) return Corrupt("{}: chosen: missing", where);
  DUO_ASSIGN_OR_RETURN(c.chosen, CertifyRowOf(*chosen, where + ": chosen"));
  return c;
}

Result<std::optional<Certificate>> LoadCertificate(const std::string& directory) {
  const std::string path = directory + "/" + kCertificateFile;
  if (!FileExists(path)) return std::optional<Certificate>();
  DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxBytes));
  DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  DUO_ASSIGN_OR_RETURN(Certificate certificate, CertificateOf(json, path));
  return std::optional<Certificate>(std::move(certificate));
}

std::string Describe(const Certificate& c) {
  const double kv =
      c.full_kv_bytes == 0 ? 0 : 100 * static_cast<double>(c.chosen.kv_bytes) / static_cast<double>(c.full_kv_bytes);
  return fmt::format(
      "measured at sparsity {:g}: KL divergence {:.2g} nats, top-1 agreement {:.1f} %, needles {:.2f} (full attention "
      "{:.2f}), KV memory {:.0f} %",
      c.chosen.sparsity, c.chosen.kld, 100 * c.chosen.top1, c.chosen.niah, c.full_niah, kv);
}

}  // namespace duo
