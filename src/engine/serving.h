// The engine's interface for programs that run many sequences in turns, as the server does. Together with include/duo/
// it is all that the server and the command line see of the engine and of the rooms below it.
#pragma once

#include "duo/model.h"
#include "duo/result.h"
#include "engine/log_probs.h"   // log probabilities of tokens
#include "engine/token_loop.h"  // the steps of Generate, one at a time

namespace duo {

/// Returns kUnavailable if a file of the weights was written to after it was opened. Tokens may then come from a
/// mixture of old and new weights. Unlike Model::CheckFiles it accepts a replaced file, because the model keeps the old
/// content. Makes one system call per file. Thread safe.
Status CheckForWrites(const Model& model);

}  // namespace duo
