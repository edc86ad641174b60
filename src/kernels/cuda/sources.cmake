# The CUDA kernels, for the CUDA build and for the tests that run them on the CPU (tests/cuda_on_host).
set(DUO_CUDA_KERNELS
  attention.cu
  attention_decode.cu
  attention_exact.cu
  attention_prefill.cu
  backward.cu
  decode_plan.cc
  dense.cu
  gemv.cu
  kv_rows.cu
  stream.cc)
list(TRANSFORM DUO_CUDA_KERNELS PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
set(DUO_CUDA_MATMUL ${CMAKE_CURRENT_LIST_DIR}/matmul.cc)
