#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/shape_text.h"
#include "base/temp_dir_for_test.h"
#include "checkpoint/safetensors_bytes_for_test.h"

namespace duo::safetensors {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Result<Header> Parse(const std::string& bytes) {
  return ParseHeader(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), "f.safetensors");
}

void ExpectCorrupt(const std::string& header, size_t n_data, const std::string& sentence) {
  const Result<Header> result = Parse(SafetensorsBytes(header, n_data));
  ASSERT_FALSE(result.ok()) << header;
  EXPECT_EQ(result.status().code(), StatusCode::kCorrupt) << header;
  EXPECT_THAT(result.status().message(), HasSubstr("f.safetensors")) << header;
  EXPECT_THAT(result.status().message(), HasSubstr(sentence)) << header;
  EXPECT_THAT(result.status().message(), Not(HasSubstr("json.exception"))) << header;
}

TEST(SafetensorsHeader, ReadsTypesShapesAndRanges) {
  const std::string header =
      R"({"__metadata__":{"format":"pt","n":{"x":[1]}},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
      R"("b":{"shape":[],"extra":[{"k":1}],"data_offsets":[0,8],"dtype":"I64"},)"
      R"("none":{"dtype":"F32","shape":[4,0],"data_offsets":[8,8]}}   )";
  const Result<Header> result = Parse(SafetensorsBytes(header, 20));
  ASSERT_TRUE(result.ok()) << result.status().message();
  ASSERT_EQ(result->size(), 3u);
  const Entry& a = result->find("a")->second;
  EXPECT_EQ(a.type, Type::kBF16);
  EXPECT_EQ(ShapeText(a.shape), "[2, 3]");
  EXPECT_EQ(a.begin, 8 + header.size() + 8);
  EXPECT_EQ(a.bytes, 12u);
  EXPECT_EQ(result->find("b")->second.type, Type::kI64);
  EXPECT_TRUE(result->find("b")->second.shape.empty());
  EXPECT_EQ(result->find("none")->second.bytes, 0u);
}

TEST(SafetensorsHeader, ReadsTheTextsOfItsMetadata) {
  const std::string header =
      R"({"__metadata__":{"format":"pt","n":{"x":[1]},"list":["y"],"number":5,"empty":"","last":"z"},)"
      R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":"y"}})";
  const std::string bytes = SafetensorsBytes(header, 2);
  const auto file = ParseFileHeader({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, bytes.size(), "f");
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->metadata, (Metadata{{"format", "pt"}, {"empty", ""}, {"last", "z"}}));
  EXPECT_EQ(file->tensors.size(), 1u);
  EXPECT_EQ(file->data_begin, 8 + header.size());
}

TEST(SafetensorsHeader, CanBeParsedWithoutTheData) {
  const std::string bytes = SafetensorsBytes(R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}})", 0);
  const std::span<const uint8_t> first(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  EXPECT_TRUE(ParseFileHeader(first, first.size() + 5, "f").ok());
  for (const uint64_t file_bytes : {first.size() + 4, first.size() + 6, first.size() - 1, size_t{8}, size_t{0}}) {
    EXPECT_EQ(ParseFileHeader(first, file_bytes, "f").status().code(), StatusCode::kCorrupt) << file_bytes;
  }
}

TEST(SafetensorsHeader, IsFormattedInTheGivenOrder) {
  const std::vector<Tensor> tensors = {{.name = "b", .type = Type::kU8, .shape = {3}},
                                       {.name = "a", .type = Type::kF32, .shape = {2, 1}}};
  const Metadata metadata = {{"note", "\"quoted\"\n"}};
  const auto bytes = FormatFileHeader("f", tensors, metadata, 64);
  ASSERT_TRUE(bytes.ok()) << bytes.status().message();
  EXPECT_EQ(bytes->size() % 64, 0u);
  const std::span<const uint8_t> first(reinterpret_cast<const uint8_t*>(bytes->data()), bytes->size());
  const auto file = ParseFileHeader(first, first.size() + 11, "f");
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->metadata, metadata);
  EXPECT_EQ(file->tensors.at("b").begin, file->data_begin);
  EXPECT_EQ(file->tensors.at("a").begin, file->data_begin + 3);
  EXPECT_EQ(FormatFileHeader("f", {tensors[0], tensors[0]}, {}, 8).status().code(), StatusCode::kInvalidArgument);
}

TEST(SafetensorsHeader, KeepsTypesItDoesNotKnow) {
  const Result<Header> result = Parse(SafetensorsBytes(R"({"a":{"dtype":"F4","shape":[10],"data_offsets":[0,5]}})", 5));
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->find("a")->second.type, Type::kOther);
  EXPECT_EQ(result->find("a")->second.type_name, "F4");
}

TEST(SafetensorsHeader, AnEmptyHeaderIsAnEmptyFile) { EXPECT_TRUE(Parse(SafetensorsBytes("{}", 0)).ok()); }

TEST(SafetensorsHeader, RefusesLengthsThatLie) {
  EXPECT_FALSE(Parse("").ok());
  EXPECT_FALSE(Parse("1234567").ok());
  std::string bytes = SafetensorsBytes("{}", 0);
  bytes[0] = 3;
  EXPECT_THAT(Parse(bytes).status().message(), HasSubstr("header of 3 bytes in a file of 10"));
  EXPECT_THAT(Parse(std::string(8, '\xff') + "{}").status().message(), HasSubstr("the format allows 100000000"));
}

TEST(SafetensorsHeader, EveryTruncationIsRefused) {
  const std::string whole = SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 12);
  ASSERT_TRUE(Parse(whole).ok());
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(Parse(whole.substr(0, n)).ok()) << n;
  EXPECT_FALSE(Parse(whole + "x").ok());
}

TEST(SafetensorsHeader, RefusesRangesThatLie) {
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,12]}})", 12, "expected 8 for F32 [2]");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 12, "beyond the file's 12 bytes");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}})", 12, "end before they begin");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,0]}})", 12, "end before");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", 12, "tensor a: data_offsets");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 12, "more than two");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}})", 12, "expected two numbers");
  ExpectCorrupt(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
      12, "tensor b: its bytes overlap those of tensor a");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "4 bytes before tensor a");
}

TEST(SafetensorsHeader, RefusesShapesThatOverflow) {
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0, "63 bits");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0]}})", 0, "63 bits");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}})", 0, "not negative");
  ExpectCorrupt(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,0]}})", 0, "tensor a: shape");
  std::string many = "1";
  for (int i = 0; i < 64; ++i) many += ",1";
  ExpectCorrupt(R"({"a":{"dtype":"U8","shape":[)" + many + R"(],"data_offsets":[0,1]}})", 1, "more than 64 dimensions");
}

TEST(SafetensorsHeader, RefusesRepeatedNamesAndFields) {
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  ExpectCorrupt("{" + a + "," + a + "}", 1, "the name appears twice");
  ExpectCorrupt(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1, "dtype appears twice");
  ExpectCorrupt(R"({"__metadata__":{},"__metadata__":{}})", 0, "__metadata__ appears twice");
}

TEST(SafetensorsHeader, RefusesWhatIsNoHeader) {
  ExpectCorrupt("", 0, "not valid JSON");
  ExpectCorrupt("[]", 0, "header: expected an object, found an array");
  ExpectCorrupt("5", 0, "header: expected an object");
  ExpectCorrupt("{} {}", 0, "not valid JSON");
  ExpectCorrupt("{\"a\xff\":{}}", 0, "not valid JSON");
  ExpectCorrupt(R"({"__metadata__":1})", 0, "__metadata__: expected an object");
  ExpectCorrupt(R"({"a":1})", 0, "tensor a: expected an object");
  ExpectCorrupt(R"({"a":{}})", 0, "dtype is missing");
  ExpectCorrupt(R"({"a":{"dtype":"U8"}})", 0, "shape is missing");
  ExpectCorrupt(R"({"a":{"dtype":7}})", 0, "dtype: expected a string, found a number");
  ExpectCorrupt(R"({"a":{"shape":{"x":1}}})", 0, "shape: expected an array, found an object");
  ExpectCorrupt(R"({"a":{"shape":[[1]]}})", 0, "found an array");
}

TEST(SafetensorsHeader, DeepNestingIsNoStackOverflow) {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  EXPECT_TRUE(Parse(SafetensorsBytes(R"({"__metadata__":{"x":)" + deep + "}}", 0)).ok());
}

TEST(SafetensorsWriter, WritesWhatItReads) {
  const TempDir dir;
  const std::string path = dir.file("out.safetensors");
  const float logits[6] = {1, 2, 3, 4, 5, 6};
  const int64_t positions[2] = {7, 1ll << 40};
  TensorView view;
  view.data = logits;
  view.rank = 2;
  view.shape = {2, 3};
  const Status status =
      WriteSafetensors(path, {Tensor::From("logits \"é\"", view), Tensor::I64("positions", {2}, positions)});
  ASSERT_TRUE(status.ok()) << status.message();
  const Result<std::string> bytes = ReadFile(path, 1 << 20);
  ASSERT_TRUE(bytes.ok());
  const Result<Header> header = Parse(*bytes);
  ASSERT_TRUE(header.ok()) << header.status().message();
  const Entry& p = header->find("positions")->second;
  const Entry& l = header->find("logits \"é\"")->second;
  EXPECT_EQ(p.type, Type::kI64);
  EXPECT_EQ(ShapeText(l.shape), "[2, 3]");
  EXPECT_EQ(p.begin % 8, 0u);
  EXPECT_EQ(bytes->substr(p.begin, p.bytes), std::string(reinterpret_cast<const char*>(positions), sizeof positions));
  EXPECT_EQ(bytes->substr(l.begin, l.bytes), std::string(reinterpret_cast<const char*>(logits), sizeof logits));
  EXPECT_EQ(dir.n_entries(), 1) << "a temporary file is left";
}

TEST(SafetensorsWriter, RefusesAndLeavesTheOldFile) {
  const TempDir dir;
  const std::string path = dir.file("out.safetensors");
  dir.Write("out.safetensors", "old");
  const int64_t one = 1;
  const Tensor a = Tensor::I64("a", {1}, &one);
  EXPECT_EQ(WriteSafetensors(path, {a, a}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteSafetensors(path, {Tensor::I64("__metadata__", {1}, &one)}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteSafetensors(path, {Tensor::I64("a", {-1}, &one)}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteSafetensors(path, {Tensor::I64("\xff", {1}, &one)}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(*ReadFile(path, 100), "old");
  const Status nowhere = WriteSafetensors(dir.file("no/such/dir.safetensors"), {a});
  EXPECT_EQ(nowhere.code(), StatusCode::kIo);
  EXPECT_THAT(nowhere.message(), HasSubstr("no/such/dir.safetensors"));
}

}  // namespace
}  // namespace duo::safetensors
