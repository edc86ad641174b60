// Limits of model files. Every count is checked against its limit before anything is allocated or multiplied, so that
// products of a few counts fit in 63 bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duo::limits {

// Files.
inline constexpr size_t kMaxConfigBytes = 16u << 20;               // config.json, generation_config.json
inline constexpr size_t kMaxIndexBytes = 64u << 20;                // model.safetensors.index.json
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100000000;  // the format's own limit
inline constexpr size_t kMaxTensors = 1u << 20;                    // in one checkpoint
inline constexpr size_t kMaxTensorNameBytes = 4096;
inline constexpr size_t kMaxShards = 65536;

// Shapes. Each limit is at least 4 times what the largest published dense models have.
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxHeads = 4096;
inline constexpr int64_t kMaxHeadDim = 512;
inline constexpr int64_t kMaxHiddenSize = 1 << 20;
inline constexpr int64_t kMaxIntermediateSize = 1 << 22;
inline constexpr int64_t kMaxVocabSize = 1 << 24;
inline constexpr int64_t kMaxPositions = int64_t{1} << 40;
inline constexpr size_t kMaxEosIds = 1024;

}  // namespace duo::limits
