#!/usr/bin/env python3
"""Runs EleutherAI's lm-evaluation-harness against `duo serve`, and checks it with `duo logits` and `duo generate`.

    python3 -m venv /tmp/lm_eval && /tmp/lm_eval/bin/pip install "lm_eval[api]" transformers    # no torch needed
    /tmp/lm_eval/bin/python tools/lm_eval_check.py --duo build/release/bin/duo [--documents 12] [--sparsity 0.9]

It writes two small tasks about codes hidden in stories. One is a choice between four codes, scored by log likelihood.
The other is a generated answer. It starts `duo serve` on the demo model, and the harness's `local-completions` asks the
server. Prompts are sent as token ids, in batches, two requests at a time.

It prints the harness's table. Then it computes every log likelihood, every "greedy", every generated text and every
score of the table again, from `duo logits` and `duo generate`, which use no server. The harness is told to stay
offline, so nothing is downloaded. The exit code is 1 when something differs, and 3 when a package is missing.

To run the harness against a server that is already running:

    lm_eval --model local-completions --tasks TASK --model_args model=demo,num_concurrent=8,add_bos_token=True,\\
    tokenizer=models/demo,max_length=32768,base_url=http://127.0.0.1:8080/v1/completions
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
SOURCE = pathlib.Path(__file__).resolve().parent.parent
MODEL = SOURCE / "models" / "demo"
MODEL_FLAGS = ["--model", str(MODEL), "--pattern", str(MODEL / "pattern"), "--compute", "f32"]
NAMES = ["Anna", "Boris", "Clara", "David", "Emma", "Felix"]
MOST_TOKENS = 8
TOLERANCE = 1e-4  # for a log likelihood: float logits of two runs that read the prompt in different chunks

CHOICE_TASK = """task: duo_codes_choice
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
GENERATE_TASK = """task: duo_codes_generate
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}} "
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: %d, do_sample: false, temperature: 0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def write_tasks(folder: pathlib.Path, n_documents: int) -> list[dict]:
    rng = random.Random(1)
    documents = []
    for i in range(n_documents):
        lines = [f"The {rng.choice(['muddy', 'ripe'])} {rng.choice(['horse', 'cow'])} feeds the golden "
                 f"{rng.choice(['field', 'barn'])}." for _ in range(20 + 8 * i)]  # fmt: skip
        codes = [str(rng.randrange(10000, 100000)) for _ in NAMES]
        for name, code in zip(NAMES, codes):
            lines.insert(rng.randrange(len(lines)), f"The secret code of {name} is {code}.")
        label = rng.randrange(4)
        text = "\n".join(lines) + f"\n\nWhat is the secret code of {NAMES[label]}?\nAnswer:"
        documents.append({"question": text, "choices": codes[:4], "label": label})
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "choice.yaml").write_text(CHOICE_TASK % data)
    (folder / "generate.yaml").write_text(GENERATE_TASK % (data, MOST_TOKENS))
    return documents


class Duo:
    """Computes answers with the program itself, in one run per question."""

    def __init__(self, options: argparse.Namespace, folder: pathlib.Path):
        self.duo = options.duo
        self.model_flags = [*MODEL_FLAGS, "--sparsity", str(options.sparsity)]
        self.folder = folder

    def run(self, ids: list[int], verb: str, *flags: str) -> str:
        path = self.folder / "ids.json"
        path.write_text(json.dumps(ids))
        command = [self.duo, verb, *self.model_flags, "--ids", str(path), *flags]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def log_likelihood(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """The log likelihood of the continuation, and whether each of its tokens is a most likely one."""
        out = self.folder / "logits.safetensors"
        first, last = len(context) - 1, len(context) + len(continuation) - 2
        self.run(context + continuation, "logits", "--positions", f"{first}:{last}", "--out", str(out))
        data = out.read_bytes()
        (n_header,) = struct.unpack("<Q", data[:8])
        entry = json.loads(data[8 : 8 + n_header])["logits"]
        begin, _ = entry["data_offsets"]
        total, greedy = 0.0, True
        for i, token in enumerate(continuation):
            n_vocab = entry["shape"][1]
            row = struct.unpack_from(f"<{n_vocab}f", data, 8 + n_header + begin + 4 * n_vocab * i)
            top = max(row)
            total += row[token] - top - math.log(sum(math.exp(x - top) for x in row))
            greedy = greedy and row[token] == top
        return total, greedy

    def text(self, ids: list[int]) -> str:
        flags = ["--max-tokens", str(MOST_TOKENS), "--stop", "\n", "--json"]
        return json.loads(self.run(ids, "generate", *flags))["text"]


def evaluate(port: int, folder: pathlib.Path):
    """Runs the harness. Returns its results and its table."""
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    arguments = {"model": "demo", "base_url": f"http://127.0.0.1:{port}/v1/completions", "tokenizer": str(MODEL),
                 "tokenizer_backend": "huggingface", "add_bos_token": True, "tokenized_requests": True,
                 "max_length": 8192, "num_concurrent": 2, "max_retries": 1}  # fmt: skip
    results = lm_eval.simple_evaluate(
        model="local-completions", model_args=arguments, tasks=["duo_codes_choice", "duo_codes_generate"], batch_size=4,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False), bootstrap_iters=0,
        log_samples=True)  # fmt: skip
    return results, make_table(results)


def compare(results: dict, documents: list[dict], duo: Duo) -> list[str]:
    """Compares the results with the program's own. Returns the differences and prints a summary."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(MODEL))
    encode = lambda text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    bos = [tokenizer.bos_token_id]
    wrong, largest, n_likelihoods, right, right_norm, exact = [], 0.0, 0, 0, 0, 0
    samples = {name: {s["doc_id"]: s for s in results["samples"][name]} for name in results["samples"]}
    for i, document in enumerate(documents):
        context = encode(document["question"])
        own = []
        for choice, response in zip(document["choices"], samples["duo_codes_choice"][i]["filtered_resps"]):
            continuation = encode(document["question"] + " " + choice)[len(context) :]
            total, greedy = duo.log_likelihood(bos + context, continuation)
            own.append(total)
            n_likelihoods += 1
            found, found_greedy = float(response[0]), str(response[1]) == "True"
            largest = max(largest, abs(found - total))
            if abs(found - total) > TOLERANCE or found_greedy != greedy:
                wrong.append(f"document {i}, {choice}: harness {found} {found_greedy}, duo logits {total} {greedy}")
        right += own.index(max(own)) == document["label"]
        by_length = [total / len(choice) for total, choice in zip(own, document["choices"])]
        right_norm += by_length.index(max(by_length)) == document["label"]
        text = duo.text(bos + encode(document["question"] + " "))
        exact += text == document["choices"][document["label"]]
        found = samples["duo_codes_generate"][i]["filtered_resps"][0]
        if found != text:
            wrong.append(f"document {i}: harness {found!r}, duo generate {text!r}")
    scores = [("duo_codes_choice", "acc", right), ("duo_codes_choice", "acc_norm", right_norm),
              ("duo_codes_generate", "exact_match", exact)]  # fmt: skip
    for task, metric, n_right in scores:
        found, own = results["results"][task][f"{metric},none"], n_right / len(documents)
        print(f"{task} {metric}: harness {found:.4f}, duo {own:.4f}")
        if abs(found - own) > 1e-9:
            wrong.append(f"{task} {metric}: harness {found}, duo {own}")
    print(f"{n_likelihoods} log likelihoods differ by at most {largest:.2g}, "
          f"{len(documents)} generated texts were compared; differences: {len(wrong)}")  # fmt: skip
    return wrong


def check(options: argparse.Namespace, folder: pathlib.Path) -> int:
    documents = write_tasks(folder, options.documents)
    port_file = folder / "port"
    duo = Duo(options, folder)
    command = [duo.duo, "serve", *duo.model_flags, "--port", "0", "--port-file", str(port_file)]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while not (port_file.exists() and port_file.read_text().strip()):
            if server.poll() is not None:
                raise RuntimeError("duo serve: " + (folder / "log").read_text())
            time.sleep(0.05)
        results, table = evaluate(int(port_file.read_text()), folder)
    finally:
        server.terminate()
        server.wait()
    print(table)
    wrong = compare(results, documents, duo)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--duo", default="build/release/bin/duo", help="The duo program.")
    parser.add_argument("--documents", type=int, default=12, help="Documents per task.")
    # With so few retrieval heads some answers are wrong. Scores that are all 1 would hide differences.
    parser.add_argument("--sparsity", type=float, default=0.9, help="Share of streaming KV heads.")
    options = parser.parse_args()
    os.environ.update(OFFLINE)
    with tempfile.TemporaryDirectory(prefix="duo_lm_eval_") as folder:
        os.environ["HF_HOME"] = folder + "/huggingface"  # must be set before the packages are loaded
        try:
            import aiohttp  # noqa: F401
            import lm_eval  # noqa: F401
            import tenacity  # noqa: F401
            import transformers  # noqa: F401
        except ImportError as error:
            print(f'lm_eval_check: {error}; run: pip install "lm_eval[api]" transformers', file=sys.stderr)
            return 3
        return check(options, pathlib.Path(folder))


if __name__ == "__main__":
    sys.exit(main())
