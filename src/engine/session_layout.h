// Turns the options of a session into the layout of its cache.
#pragma once

#include "duo/session.h"
#include "kv/kv_layout.h"

namespace duo {

/// The layout for options from ResolveOptions. It passes CheckKvLayout.
KvLayout LayoutOf(const ModelConfig& config, const SessionOptions& resolved);

}  // namespace duo
