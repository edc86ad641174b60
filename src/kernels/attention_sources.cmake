# Sources of the attention kernels, flags of the instruction-set specific ones, and tests. Included by CMakeLists.txt.
set(DUO_ATTENTION_SOURCES
  cpu/attention/attention_dispatch.cc
  cpu/attention/attention_portable.cc
  cpu/attention/prefill_plan.cc
  kv_codes.cc
  reference/attention_reference.cc)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  list(APPEND DUO_ATTENTION_SOURCES
    cpu/attention/attention_avx2.cc
    cpu/attention/attention_avx512.cc
    cpu/attention/attention_avx512_vnni.cc
    cpu/attention/attention_avx512_bf16.cc)
  # gcc 12 warns about the undefined operands of its own AVX-512 intrinsics (gcc bug 105593).
  set(DUO_ATTENTION_AVX512_FLAGS -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c
    $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  set_source_files_properties(cpu/attention/attention_avx2.cc PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
  set_source_files_properties(cpu/attention/attention_avx512.cc PROPERTIES COMPILE_OPTIONS "${DUO_ATTENTION_AVX512_FLAGS}")
  set_source_files_properties(cpu/attention/attention_avx512_bf16.cc PROPERTIES
    COMPILE_OPTIONS "${DUO_ATTENTION_AVX512_FLAGS};-mavx512bf16;-mavx512vnni")
  set_source_files_properties(cpu/attention/attention_avx512_vnni.cc PROPERTIES
    COMPILE_OPTIONS "${DUO_ATTENTION_AVX512_FLAGS};-mavx512vnni")
endif()

duo_test(attention_test
  SOURCES attention_test.cc prefill_attention_test.cc
  ROOMS kernels)
duo_test(kv_codes_test SOURCES kv_codes_test.cc ROOMS kernels)
