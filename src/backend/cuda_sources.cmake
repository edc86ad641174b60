# Sources of the CUDA backend. src/kernels/cuda/sources.cmake lists those of the kernels.
set(DUO_CUDA_BACKEND
  cuda_attention_gradient.cc
  cuda_backend.cc
  cuda_device.cc
  cuda_identify_ops.cc
  cuda_memory.cc
  cuda_meter.cc
  cuda_products.cc
  cuda_upload.cc)
list(TRANSFORM DUO_CUDA_BACKEND PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
