#include <duo/generate.h>
#include <duo/key_outliers.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  auto backend = duo::CreateBackend({}).value();
  auto model = duo::Model::Open(argv[1], backend.get()).value();
  auto tokenizer = duo::Tokenizer::Open(argv[1]).value();
  // K and V take half the memory, unless the model's keys have outliers.
  const bool even = duo::LargestKeyOutlier(model).value().ratio() < duo::KeyOutlierLimit(duo::KvType::kInt8);
  auto session = duo::Session::Create(model, {.kv_type = even ? duo::KvType::kInt8 : duo::KvType::kBF16}).value();
  auto result = duo::Generate(&session, model, &tokenizer, tokenizer.Encode(argv[2]), {.max_tokens = 16}).value();
  std::cout << result.text << '\n';
}
