#include "eval/certificate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/temp_dir_for_test.h"
#include "eval/charts.h"

namespace duo {
namespace {

using testing::HasSubstr;

TEST(ChooseRow, TakesTheHighestSparsityThatKeepsTheBounds) {
  std::vector<CertifyRow> rows(4);
  const double sparsity[] = {0, 0.5, 0.75, 0.25}, kld[] = {0, 0.01, 0.2, 0.005}, niah[] = {1, 0.98, 0.6, 1};
  for (size_t i = 0; i < 4; ++i) rows[i].sparsity = sparsity[i], rows[i].kld = kld[i], rows[i].niah = niah[i];
  EXPECT_EQ(ChooseRow(rows, {.max_kld = 0.1, .min_niah = {}}), 1u);
  EXPECT_EQ(ChooseRow(rows, {.max_kld = 0.1, .min_niah = 0.99}), 3u);
  EXPECT_EQ(ChooseRow(rows, {.max_kld = 0.2, .min_niah = {}}), 2u);  // a value equal to the bound is within it
  EXPECT_EQ(ChooseRow(rows, {.max_kld = {}, .min_niah = 1.01}), std::nullopt);
  rows[2].kld = std::nan("");
  EXPECT_EQ(ChooseRow(rows, {.max_kld = 1, .min_niah = {}}), 1u);
  EXPECT_EQ(ChooseRow({}, {}), std::nullopt);
}

TEST(Certificate, IsReadAndDescribed) {
  const TempDir dir;
  EXPECT_FALSE(LoadCertificate(dir.path()).value().has_value());
  CertifyRow row;
  row.sparsity = 0.5, row.kld = 0.0125, row.top1 = 0.991, row.niah = 0.98, row.kv_bytes = 512;
  row.n_retrieval = 3, row.perplexity = 4.5, row.kld_error = 0.001, row.top1_error = 0.002, row.decode_ms = 1.5;
  Json json = {{"model", "m"},
               {"model_fingerprint", "ab"},
               {"heads_fingerprint", "cd"},
               {"heads", {{"sink", 4}, {"recent", 16}, {"prefill_recent", 16}}},
               {"full_niah", 1.0},
               {"full_kv_bytes", 1024},
               {"chosen", ToJson(row)}};
  dir.Write("certificate.json", json.dump());
  const Certificate c = LoadCertificate(dir.path()).value().value();
  EXPECT_EQ(c.model_fingerprint, "ab");
  EXPECT_EQ(c.recent, 16);
  EXPECT_EQ(c.chosen.kld, row.kld);
  EXPECT_EQ(Describe(c),
            "measured at sparsity 0.5: KL divergence 0.013 nats, top-1 agreement 99.1 %, needles 0.98 (full attention "
            "1.00), KV memory 50 %");
  EXPECT_EQ(c.model, "m");
  EXPECT_EQ(c.heads_fingerprint, "cd");
  EXPECT_EQ(c.sink, 4);
  EXPECT_EQ(c.prefill_recent, 16);
  EXPECT_EQ(c.full_niah, 1.0);
  EXPECT_EQ(c.full_kv_bytes, 1024u);
  EXPECT_EQ(ToJson(c.chosen), ToJson(row)) << "every number comes back";
  Json negative = json;
  negative["full_kv_bytes"] = -5;
  negative["chosen"]["kv_bytes"] = -5;
  negative["chosen"]["n_retrieval"] = -5;
  dir.Write("certificate.json", negative.dump());
  const Certificate none = LoadCertificate(dir.path()).value().value();
  EXPECT_EQ(none.full_kv_bytes, 0u);
  EXPECT_EQ(none.chosen.kv_bytes, 0u);
  EXPECT_EQ(none.chosen.n_retrieval, 0);
  EXPECT_THAT(Describe(none), HasSubstr("KV memory 0 %")) << "of nothing";
  for (const char* key : {"heads", "chosen", "full_niah", "full_kv_bytes", "model"}) {
    Json missing = json;
    missing.erase(key);
    dir.Write("certificate.json", missing.dump());
    EXPECT_THAT(LoadCertificate(dir.path()).status().message(), HasSubstr(key));
  }
  json["chosen"].erase("niah");
  dir.Write("certificate.json", json.dump());
  EXPECT_THAT(LoadCertificate(dir.path()).status().message(), HasSubstr("certificate.json: chosen: niah"));
  dir.Write("certificate.json", "{");
  EXPECT_EQ(LoadCertificate(dir.path()).status().code(), StatusCode::kCorrupt);
}

TEST(Charts, BadResultsAreSentences) {
  const auto failure = [](const Json& json) { return ChartOf(json, "r.json").status().message(); };
  EXPECT_THAT(failure({{"x", 1}}), HasSubstr("r.json: eval"));
  EXPECT_THAT(failure({{"eval", "poem"}}), HasSubstr("not a kind of result"));
  EXPECT_THAT(failure({{"eval", "niah"}}), HasSubstr("lengths"));
  EXPECT_THAT(failure({{"eval", "niah"}, {"lengths", {1}}, {"depths", {0}}, {"modes", {{"full", {{"table", {{}}}}}}}}),
              HasSubstr("table"));
  EXPECT_THAT(failure({{"eval", "certify"}, {"rows", {{{"sparsity", 1}}}}}), HasSubstr("kld"));
  EXPECT_THAT(failure({{"eval", "ruler"}, {"tasks", 3}}), HasSubstr("tasks"));
  EXPECT_THAT(failure({{"eval", "perplexity"}, {"buckets", {{{"begin", "x"}}}}}), HasSubstr("begin"));
  EXPECT_THAT(failure(Json::array()), HasSubstr("eval"));
}

// Text from files reaches gnuplot only as a quoted string.
TEST(Charts, NamesCannotBecomeCommands) {
  const Json evil = {{"eval", "ruler"},
                     {"tasks", {{"x' ; system('touch /tmp/evil') ; '", {{"n", 1}, {"full", 50.0}}}}}};
  const Chart chart = ChartOf(evil, "r.json").value();
  EXPECT_EQ(chart.script.find("x' ;"), std::string::npos);
}

}  // namespace
}  // namespace duo
