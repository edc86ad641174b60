// From the options of a session to the layout of its cache.
#pragma once

#include "duo/session.h"
#include "kv/kv_layout.h"

namespace duo {

/// Defaults filled in, checked against the model. kInvalidArgument names the option.
Result<SessionOptions> ResolveOptions(const ModelConfig& config, const SessionOptions& given);

/// `resolved` comes from ResolveOptions.
KvLayout LayoutOf(const ModelConfig& config, const SessionOptions& resolved);

}  // namespace duo
