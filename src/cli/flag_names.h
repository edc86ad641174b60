// Turns the library's names of its options into flags that a user can type.
#pragma once

#include <string>

#include "duo/result.h"

namespace CLI {
class App;
}

namespace duo::cli {

/// Returns the sentence of `status` with the flags of `verb` that set the option in its subject. A flag comes before
/// the sentence ("--sink: sink is -1; ..."). Flags whose other values would help come after it ("... are available
/// (--sparsity, --kv-type)"). Flags that the verb does not have are left out.
std::string SentenceWithFlags(const Status& status, const CLI::App& verb);

}  // namespace duo::cli
