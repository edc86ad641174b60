#!/usr/bin/env bash
# Checks everything that needs an NVIDIA GPU in one run of at most nine minutes. Runs the tests against the reference
# and the golden models, then measures the speeds that docs/performance.md promises. Prints one table.
#
#   tools/device_check.sh [--bin DIR] [--out DIR] [--rehearse]
#   tools/device_check.sh --pack FILE.tar.xz
#
# --bin DIR    Folder of programs that were built elsewhere and unpacked from --pack's file. Without it the cuda preset
#              is built here.
# --pack FILE  Builds, and packs the programs with the libraries that they need (except CUDA's), for a machine that
#              cannot build.
# --out DIR    Folder for logs and JSON files (build/device_check).
# --rehearse   Runs the same steps on this machine's CPU with the embedded model, to test the script.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

bin="" out=build/device_check device=cuda pack=""
while [ $# -gt 0 ]; do
  case "$1" in
    --bin) bin=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --pack) pack=$2; shift 2 ;;
    --rehearse) device=cpu; shift ;;
    *) echo "usage: tools/device_check.sh [--bin DIR] [--out DIR] [--rehearse] | --pack FILE.tar.xz" >&2; exit 2 ;;
  esac
done
mkdir -p "$out"
readonly limit_s=540
left() { echo $((limit_s - SECONDS)); }

# step NAME SECONDS COMMAND...: runs the command with a time limit. Writes its output to $out/NAME.log and its result to
# results.tsv. Prints the end of the output when it fails.
: >"$out/results.tsv"
step() {
  local name=$1 most=$2 begin=$SECONDS result
  shift 2
  [ "$most" -le "$(left)" ] || most=$(left)
  if [ "$most" -lt 5 ]; then
    result="no time left"
  elif timeout "$most" "$@" >"$out/$name.log" 2>&1; then
    result=passed
    ! grep -q '\[  SKIPPED \]' "$out/$name.log" || result=SKIPPED
  else
    result="FAILED ($?)"
    tail -n 15 "$out/$name.log"
  fi
  printf '%s\t%s\t%d\n' "$name" "$result" $((SECONDS - begin)) >>"$out/results.tsv"
  printf '%-24s %-14s %4d s\n' "$name" "$result" $((SECONDS - begin))
}

# bench NAME SECONDS FLAGS...: runs duo bench and writes its JSON to $out/NAME.json.
bench() {
  local name=$1 most=$2
  shift 2
  # shellcheck disable=SC2016  # for the inner shell
  step "$name" "$most" sh -c 'out=$1; shift; "$@" >"$out"' sh "$out/$name.json" \
    "$duo" bench --device "$device" --json --fill synthetic "$@"
}

if [ -z "$bin" ]; then
  if [ "$device" = cuda ]; then
    scripts/build cuda -DDUO_BUILD_TESTS=ON duo cuda_test cuda_engine_test >"$out/build.log" 2>&1 ||
      { tail -n 20 "$out/build.log"; exit 1; }
    bin=build/cuda/bin
    ln -sf ../src/kernels/cuda_test ../tests/cuda_engine_test "$bin/"
    if [ -n "$pack" ]; then
      folder=$(mktemp -d)
      mkdir "$folder/lib"
      cp -L "$bin/duo" "$bin/cuda_test" "$bin/cuda_engine_test" "$folder/"
      strip "$folder"/duo "$folder"/cuda_*
      ldd "$folder"/duo "$folder"/cuda_* | awk '$3 ~ /^\// {print $3}' | sort -u |
        grep -vE '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libcublas[A-Za-z]*)\.so' | xargs cp -L -t "$folder/lib"
      tar -C "$folder" -cJf "$pack" . && ls -l "$pack"
      rm -rf "$folder"
      exit
    fi
  else
    bin=build/release/bin
  fi
fi
duo=$bin/duo
export DUO_SOURCE_DIR=$PWD  # the tests find their data there
[ ! -d "$bin/lib" ] || export LD_LIBRARY_PATH="$PWD/$bin/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

if [ "$device" = cpu ]; then
  echo "This is a rehearsal: the measured figures are this CPU's, the wanted ones are a GPU's."
  for name in decode_types llama3_8b llama2_7b prefill; do
    bench "$name" 60 --model models/demo --pattern models/demo/pattern --depths 1024 --decode 4 --prefill 64 --repeat 1 \
      --modes full:bf16,duo:bf16,full:int8,full:int4
  done
else
  if ! nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >"$out/device.txt" 2>/dev/null; then
    echo "tools/device_check.sh: nvidia-smi finds no NVIDIA GPU; --rehearse tests the script on the CPU" >&2
    exit 1
  fi
  cat "$out/device.txt"
  step cuda_test 90 "$bin/cuda_test" --gtest_brief=1
  step cuda_engine_test 90 "$bin/cuda_engine_test" --gtest_brief=1
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  if [ -n "$sanitizer" ]; then
    few='*HeadDims*:*Ranges*:*Gemv*:*Rows*:*LambdaMask*:*Between*:*Rounding*:*Rope*:CudaGraphs*'
    step memcheck 60 "$sanitizer" --tool memcheck --error-exitcode 9 "$bin/cuda_test" --gtest_brief=1 --gtest_filter="$few"
    step racecheck 60 "$sanitizer" --tool racecheck --error-exitcode 9 "$bin/cuda_test" --gtest_brief=1 --gtest_filter="$few"
  else
    echo "memcheck, racecheck: SKIPPED, compute-sanitizer was not found"
  fi
  llama3=(--config bench/configs/llama-3-8b.json --random-weights --sparsity 0.5 --sink 128 --recent 256)
  llama2=(--config bench/configs/llama-2-7b.json --random-weights --sparsity 0.75 --sink 128 --recent 256)
  bench decode_types 60 "${llama3[@]}" --layers 2 --depths 131072,1048576 --modes full:bf16,full:int8,full:int4 \
    --decode 16 --prefill 0
  bench prefill 60 "${llama3[@]}" --layers 2 --depths 131072 --modes full:bf16,duo:bf16 --decode 0 --prefill 8192 --chunk 8192
  bench llama3_8b 90 "${llama3[@]}" --depths 102400,204800,307200 --modes full,duo --decode 16 --prefill 0
  bench llama2_7b 60 "${llama2[@]}" --depths 51200,81920 --modes full,duo --decode 16 --prefill 0
  bench capacity 90 "${llama3[@]}" --weights int8 --kv-type int4 --depths 3300000 --modes duo --decode 8 --prefill 0 --repeat 1
  # The paper's prefill: 320k tokens in 32k chunks, from an empty cache. The ratio is that of four of 32 layers alone.
  bench llama3_8b_prefill 120 "${llama3[@]}" --layers 4 --depths 0 --modes full,duo --decode 0 --prefill 327680 --chunk 32768 --repeat 1
fi
python3 tools/device_table.py "$out" | tee "$out/table.txt"
