#include <duo/generate.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  auto backend = duo::CreateBackend({}).value();
  auto model = duo::Model::Open(argv[1], backend.get()).value();
  auto tokenizer = duo::Tokenizer::Open(argv[1]).value();
  auto session = duo::Session::Create(model, {}).value();
  auto result = duo::Generate(&session, model, &tokenizer, tokenizer.Encode(argv[2]), {.max_tokens = 16}).value();
  std::cout << result.text << '\n';
}
