// Turns the options of a session into the layout of its cache.
#pragma once

#include "duo/session.h"
#include "kv/kv_layout.h"

namespace duo {

/// Fills in the defaults and checks the options against the model. kInvalidArgument names the option.
Result<SessionOptions> ResolveOptions(const ModelConfig& config, const SessionOptions& given);

/// The layout for options from ResolveOptions.
KvLayout LayoutOf(const ModelConfig& config, const SessionOptions& resolved);

}  // namespace duo
