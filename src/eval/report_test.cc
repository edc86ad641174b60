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

TEST(Report, TablesHaveHeadsRowsAndUnits) {
  const Json row = {{"sparsity", 0.5},    {"n_retrieval", 8}, {"perplexity", 4.0}, {"kld", 0.01},
                    {"kld_error", 0.001}, {"top1", 0.9},      {"top1_error", 0.1}, {"niah", 0.75},
                    {"kv_bytes", 2048},   {"decode_ms", 1.5}};
  Json other = row;
  other["sparsity"] = 0.25;
  Json certify = {{"eval", "certify"},     {"rows", {other, row}}, {"chosen", row},
                  {"full_kv_bytes", 8192}, {"full_niah", 1.0},     {"full_decode_ms", 2.25}};
  const auto page = [](const Json& result) { return MakeReport({{"a", result}}, "x").value(); };
  std::string html = page(certify);
  EXPECT_THAT(html, HasSubstr("<tr><th>sparsity</th><th>heads</th><th>KL divergence</th><th>top-1</th>"
                              "<th>needles</th><th>KV</th><th>ms/token</th></tr>"));
  EXPECT_THAT(html, HasSubstr("<tr><td>full</td><td></td><td>0</td><td>100 %</td><td>1.000</td><td>8.00 KiB</td>"
                              "<td>2.25</td></tr>"));
  EXPECT_THAT(html, HasSubstr("<tr><td>0.25</td><td>8</td><td>0.01 ± 0.001</td><td>90.00 %</td><td>0.750</td>"
                              "<td>2.00 KiB (25 %)</td><td>1.5</td></tr>"));
  EXPECT_THAT(html, HasSubstr("<p>Chosen: sparsity 0.5.</p>"));
  certify.erase("chosen");
  html = page(certify);
  EXPECT_THAT(html, Not(HasSubstr("Chosen")));
  EXPECT_THAT(html, Not(HasSubstr("class=\"chosen\"")));

  html = page({{"eval", "perplexity"}, {"full", {{"perplexity", 4.0}}}, {"buckets", Json::array()}});
  EXPECT_THAT(html, HasSubstr("<tr><th></th><th>perplexity</th><th>KL divergence</th><th>same most likely token</th>"));
  EXPECT_THAT(html, HasSubstr("<tr><td>full</td><td>4.0000</td><td>0 ± 0</td><td>100.00 %</td></tr>"));
  EXPECT_THAT(html, Not(HasSubstr("<td>duo</td>")));

  html = page({{"eval", "longbench"}, {"tasks", {{"qa", {{"n", 3}, {"full", 50.123456}}}}}, {"note", "a < b"}});
  EXPECT_THAT(html, HasSubstr("<tr><th></th><th>n</th><th>full</th><th>duo</th></tr>"));
  EXPECT_THAT(html, HasSubstr("<tr><td>qa</td><td>3</td><td>50.12</td><td></td></tr>"));
  EXPECT_THAT(html, HasSubstr("<p>a &lt; b</p>"));

  Json needles = Niah();
  needles["lengths"] = {512, 1024};
  needles["depths"] = {0.25, 0.5};
  needles["modes"] = {{"duo", {{"mean", 0.5}, {"table", {{0.125, 1}, {0, 0.5}}}}}};
  html = page(needles);
  EXPECT_THAT(html, HasSubstr("<p>duo: mean score 0.500</p>"));
  EXPECT_THAT(html, HasSubstr("<tr><th>depth \\ length</th><th>512</th><th>1024</th></tr>\n"
                              "<tr><td>0.25</td><td>0.125</td><td>1</td></tr>\n"
                              "<tr><td>0.5</td><td>0</td><td>0.5</td></tr>"));
}

TEST(Report, SaysWhatWasMeasuredOnWhat) {
  Json result = Niah();
  result["backend"] = {{"name", "cpu, 2 threads"}, {"isa", "avx2"}};
  result["kv_type"] = "bf16";
  result["seed"] = 7;
  result["duo_version"] = nullptr;
  result["heads"] = {{"n_retrieval", 3}, {"n_streaming", 5}, {"recent", 256}};
  const std::string page = MakeReport({{"a", result}}, "x").value();
  EXPECT_THAT(page, HasSubstr("<dt>machine</dt><dd>cpu, 2 threads</dd>"));
  EXPECT_THAT(page, HasSubstr("<dt>K and V</dt><dd>bf16</dd>"));
  EXPECT_THAT(page, HasSubstr("<dt>seed</dt><dd>7</dd>"));
  EXPECT_THAT(page, Not(HasSubstr("<dt>duo</dt>"))) << "what is null is left out";
  EXPECT_THAT(page, HasSubstr("<dt>heads</dt><dd>3 retrieval, 5 streaming, 256 recent tokens</dd>"));
  EXPECT_THAT(page, HasSubstr("<h2>Needle in a haystack</h2>"));
  EXPECT_TRUE(IsReportable(result));
  EXPECT_TRUE(IsReportable({{"ceilings", 1}, {"rows", 2}}));
  EXPECT_FALSE(IsReportable({{"ceilings", 1}}));
  EXPECT_FALSE(IsReportable({{"eval", 3}}));
}

TEST(Report, BrokenResultsNameFileAndMember) {
  const auto failure = [](const Json& json) { return MakeReport({{"x.json", json}}, "t").status().message(); };
  EXPECT_THAT(failure({{"eval", "niah"}}), HasSubstr("x.json: modes: missing"));
  for (const char* member : {"modes", "lengths", "depths"}) {
    Json broken = Niah();
    broken[member] = 3;
    EXPECT_THAT(failure(broken), HasSubstr("expected an object and two lists")) << member;
  }
  EXPECT_THAT(failure({{"eval", "certify"}, {"rows", {1}}}), HasSubstr("x.json"));
  EXPECT_THAT(failure({{"eval", "ruler"}, {"tasks", {{"vt", 3}}}}), HasSubstr("x.json: tasks"));
  EXPECT_THAT(failure({{"eval", "poem"}}), HasSubstr("x.json: is not a result"));
  EXPECT_THAT(failure(Json::array()), HasSubstr("is not a result"));
  EXPECT_THAT(failure(nullptr), HasSubstr("is not a result"));
  Json odd = Niah();
  odd["modes"]["full"]["table"] = {{"x", 1}};
  EXPECT_FALSE(MakeReport({{"x.json", odd}}, "t").ok());
  odd["modes"] = 3;
  EXPECT_FALSE(MakeReport({{"x.json", odd}}, "t").ok());
}

}  // namespace
}  // namespace duo
