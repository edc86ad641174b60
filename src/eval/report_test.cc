#include "eval/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace duo {
namespace {

using testing::HasSubstr;
using testing::Not;

Json Niah() {
  return {{"eval", "niah"},
          {"model", "m <script>alert(1)</script>"},
          {"lengths", {1024}},
          {"depths", {0.5}},
          {"command", "duo eval niah --needle 'a & b'"},
          {"modes", {{"full", {{"mean", 0.75}, {"table", {{0.75}}}}}}}};
}

TEST(Report, ShowsResultsAndEscapesTheirTexts) {
  const std::string page = MakeReport({{"a.json", Niah()}}, "T & <b>").value();
  EXPECT_THAT(page, HasSubstr("<title>T &amp; &lt;b&gt;</title>"));
  EXPECT_THAT(page, HasSubstr("mean score 0.750"));
  EXPECT_THAT(page, HasSubstr("m &lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_THAT(page, HasSubstr("--needle &#39;a &amp; b&#39;"));
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("http://localhost")));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
}

TEST(Report, EveryKindHasASection) {
  const Json row = {{"sparsity", 0.5}, {"n_retrieval", 8},  {"perplexity", 4.0}, {"kld", 0.01},   {"kld_error", 0.001},
                    {"top1", 0.9},     {"top1_error", 0.1}, {"niah", 1.0},       {"kv_bytes", 5}, {"decode_ms", 1.5}};
  const Json certify = {{"eval", "certify"},   {"rows", {row}},    {"chosen", row},
                        {"full_kv_bytes", 10}, {"full_niah", 1.0}, {"full_decode_ms", 2.0}};
  const Json perplexity = {{"eval", "perplexity"},
                           {"full", {{"perplexity", 4.0}}},
                           {"duo", {{"perplexity", 4.5}, {"kld", 0.01}, {"kld_error", 0.001}, {"top1", 0.9}}},
                           {"buckets", Json::array()}};
  const Json ruler = {{"eval", "ruler"}, {"tasks", {{"vt", {{"n", 3}, {"full", 50.0}, {"duo", 40.0}}}}}};
  const Json bench = {{"ceilings", Json::object()}, {"rows", {{{"test", "decode"}, {"mode", "duo"}, {"depth", 7}}}}};
  const std::string page = MakeReport({{"a", certify}, {"b", perplexity}, {"c", ruler}, {"d", bench}}, "x").value();
  EXPECT_THAT(page, HasSubstr("<tr class=\"chosen\"><td>0.5</td>"));
  EXPECT_THAT(page, HasSubstr("<td>4.5000</td>"));
  EXPECT_THAT(page, HasSubstr("<td>vt</td><td>3</td><td>50</td><td>40</td>"));
  EXPECT_THAT(page, HasSubstr("<td>decode</td><td>duo</td><td>7</td>"));
}

TEST(Report, BrokenResultsNameFileAndMember) {
  const auto failure = [](const Json& json) { return MakeReport({{"x.json", json}}, "t").status().message(); };
  EXPECT_THAT(failure({{"eval", "niah"}}), HasSubstr("x.json: modes: missing"));
  EXPECT_THAT(failure({{"eval", "certify"}, {"rows", {1}}}), HasSubstr("x.json"));
  EXPECT_THAT(failure({{"eval", "ruler"}, {"tasks", {{"vt", 3}}}}), HasSubstr("x.json: tasks"));
  EXPECT_THAT(failure({{"eval", "poem"}}), HasSubstr("x.json: is no result"));
  EXPECT_THAT(failure(Json::array()), HasSubstr("is no result"));
  EXPECT_THAT(failure(nullptr), HasSubstr("is no result"));
  Json odd = Niah();
  odd["modes"]["full"]["table"] = {{"x", 1}};
  EXPECT_FALSE(MakeReport({{"x.json", odd}}, "t").ok());
  odd["modes"] = 3;
  EXPECT_FALSE(MakeReport({{"x.json", odd}}, "t").ok());
}

}  // namespace
}  // namespace duo
