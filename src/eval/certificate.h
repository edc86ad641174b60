// Measurements of what a choice of heads costs and saves on one model: the file certificate.json beside a pattern.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "duo/head_pattern.h"
#include "duo/result.h"

namespace duo {

/// The measurements at one sparsity.
struct CertifyRow {
  double sparsity = 0;
  int n_retrieval = 0;  // heads
  double perplexity = 0;
  double kld = 0, kld_error = 0;    // divergence from full attention, nats: mean over scored tokens, standard error
  double top1 = 0, top1_error = 0;  // share of tokens whose most likely token is full attention's; standard error
  double niah = 0;                  // mean needle score
  uint64_t kv_bytes = 0;            // at the context length of decode_ms
  double decode_ms = 0;             // per token
};

/// Bounds on the loss that a user accepts; none = not bounded.
struct CertifyBounds {
  std::optional<double> max_kld;
  std::optional<double> min_niah;
};

/// Index of the row with the highest sparsity among those within the bounds; none if no row is.
std::optional<size_t> ChooseRow(const std::vector<CertifyRow>& rows, const CertifyBounds& bounds);

Json ToJson(const CertifyRow& row);
/// kCorrupt names the member.
Result<CertifyRow> CertifyRowOf(const Json& json, const std::string& where);

/// Identifies the set of retrieval heads of a choice, as 16 hexadecimal digits.
std::string HeadsFingerprint(const HeadChoice& heads);

/// The part of certificate.json that other commands read.
struct Certificate {
  std::string model;
  std::string model_fingerprint;
  std::string heads_fingerprint;
  int64_t sink = 0, recent = 0, prefill_recent = 0;  // used in the measurement, tokens
  CertifyRow chosen;
  double full_niah = 0;
  uint64_t full_kv_bytes = 0;
};
inline constexpr const char* kCertificateFile = "certificate.json";

/// kCorrupt: "<where>: <member>: ...".
Result<Certificate> CertificateOf(const Json& json, const std::string& where);

/// Reads `directory`/certificate.json; nullopt if it does not exist. kCorrupt names file and member.
Result<std::optional<Certificate>> LoadCertificate(const std::string& directory);

/// For example "measured at sparsity 0.5: KL divergence 0.0012 nats, top-1 agreement 99.1 %, needles 0.98 (full
/// attention 1.00), KV memory 51 %".
std::string Describe(const Certificate& certificate);

}  // namespace duo
