// Replaces src/kernels/cuda/nvcc.h. Shared memory is that of the block that runs, and a kernel's address is enough to
// call it later.
#pragma once

#include <tuple>
#include <utility>

#include "cuda_on_host/cuda_runtime.h"

#define DUO_SHARED_MEMORY(name) uint8_t* const name = ::cuda_on_host::SharedMemory()

namespace duo {

/// Also tells the stand-in which parameters the kernel has.
template <class... Params>
const void* KernelAddress(void (*kernel)(Params...)) {
  const void* known = reinterpret_cast<const void*>(kernel);
  cuda_on_host::KnowKernel(known, [](const void* address, void** arguments) {
    const auto copy = [arguments]<size_t... kIndex>(std::index_sequence<kIndex...>) {
      return std::tuple<Params...>(*static_cast<Params*>(arguments[kIndex])...);
    };
    std::tuple<Params...> kept = copy(std::index_sequence_for<Params...>());
    std::apply([](const auto&... arg) { (cuda_on_host::CheckArgument(&arg, sizeof arg), ...); }, kept);
    auto* function = reinterpret_cast<void (*)(Params...)>(const_cast<void*>(address));
    return std::function<void()>([=] { std::apply(function, kept); });
  });
  return known;
}

}  // namespace duo
