// From the library's names of its options to flags that a user can type.
#pragma once

#include <string>

#include "duo/result.h"

namespace CLI {
class App;
}

namespace duo::cli {

/// The sentence of `status` with the flags of `verb` that its subject means: in front of it ("--sink: sink is -1;
/// ..."), or, where another value of them would help, after it ("... are available (--sparsity, --kv-type)"). Names no
/// flag that the verb does not have.
std::string SentenceWithFlags(const Status& status, const CLI::App& verb);

}  // namespace duo::cli
