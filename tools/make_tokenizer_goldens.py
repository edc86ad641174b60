#!/usr/bin/env python3
"""Writes tests/data/tokenizers: small tokenizers in the styles of the model families that duo runs, and the results of
the reference libraries for awkward texts.

    python3 tools/make_tokenizer_goldens.py [--out tests/data/tokenizers] [--random N] [--seed S]

It needs `tokenizers`, `sentencepiece` and `jinja2` from PyPI (the golden files name the versions). Every tokenizer is
trained here on the texts of tokenizer_corpus.py, so nothing is downloaded and no vocabulary is copied. Pre-tokenizers,
normalizers, decoders and post-processors have the exact form of the published tokenizer.json files. Chat templates are
written here in the form of the published ones.

cases.json: {"reference": "...", "cases": [{"hex": bytes of the text, "ids": with special tokens, "plain_ids": without,
"text": decode(ids) with special tokens kept, "plain_text": decode(ids) without}]}. Texts are in hex because some
are not UTF-8. The reference gets bytes.decode("utf-8", errors="replace").
"""

import argparse
import io
import json
import pathlib
import random
import re
import sys

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from tokenizer_corpus import AWKWARD, CORPUS  # noqa: E402

LLAMA3_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+")
QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+")
O200K_REGEX = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

LLAMA2_CHAT = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
    "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}{% if loop.index0 == 0 and system_message != false %}{% set content = "
    "'<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = "
    "message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + "
    "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}")
LLAMA3_CHAT = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
QWEN2_CHAT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}")
MISTRAL_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == "
    "'assistant' %}{{ message['content'] + eos_token}}{% endif %}{% endfor %}")

CONVERSATIONS = [
    [("user", "Hello, who are you?")],
    [("system", "Be brief."), ("user", " What is 12345 + 1? "), ("assistant", " 12346. "), ("user", "Thanks!\n")],
    [("user", "Ça va ? 🙂"), ("assistant", "Oui."), ("user", "你好"), ("assistant", "好"), ("user", "ok")],
]


def byte_level(regex, specials, normalizer=None, ignore_merges=False, use_regex=False, pre=None):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tok.normalizer = normalizer
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    steps = pre or ([pre_tokenizers.Split(Regex(regex), "isolated")] if regex else [])
    tok.pre_tokenizer = pre_tokenizers.Sequence(steps + [last]) if steps else last
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])
    return tok


def llama3():
    tok = byte_level(LLAMA3_REGEX, [
        "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        ignore_merges=True)
    bos = "<|begin_of_text|>"
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
                                      special_tokens=[(bos, tok.token_to_id(bos))])])
    return tok, {"bos_token": bos, "eos_token": "<|eot_id|>", "chat_template": LLAMA3_CHAT}


def qwen2():
    tok = byte_level(QWEN2_REGEX, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizer=normalizers.NFC())
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    # An ordinary added token, as Qwen3's <think>, one that matches single words only, and two that take white space.
    tok.add_tokens([AddedToken("<think>", normalized=False), AddedToken("Kraków", single_word=True, normalized=True)])
    tok.add_special_tokens([AddedToken("<|left|>", lstrip=True), AddedToken("<|right|>", rstrip=True)])
    return tok, {"bos_token": None, "eos_token": "<|im_end|>", "chat_template": QWEN2_CHAT}


def gpt2():
    tok = byte_level(None, ["<|endoftext|>"], use_regex=True)
    tok.post_processor = processors.ByteLevel(trim_offsets=True)
    return tok, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}


def o200k():
    tok = byte_level(O200K_REGEX, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], normalizer=normalizers.NFKC())
    return tok, {"bos_token": None, "eos_token": "<|endoftext|>",
                 "chat_template": [{"name": "default", "template": QWEN2_CHAT}]}


def split_mix():
    """A tokenizer with rarely used steps: several splits in a row, other split behaviours, digits, Lowercase, Strip."""
    pre = [pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "merged_with_previous"),
           pre_tokenizers.Split("e", "merged_with_next"),
           pre_tokenizers.Split(Regex(r"[^\w\s]"), "contiguous"),
           pre_tokenizers.Split(Regex(r"\S"), "contiguous", invert=True),
           pre_tokenizers.Split("#", "removed"),
           pre_tokenizers.Digits(individual_digits=True)]
    normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase(), normalizers.Strip(),
                                       normalizers.Replace(Regex(r"o{2,}"), "oo")])
    tok = byte_level(None, ["<|endoftext|>"], normalizer=normalizer, pre=pre)
    return tok, {"bos_token": None, "eos_token": "<|endoftext|>"}


def sentencepiece_model():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in CORPUS for line in text.splitlines() if line), model_writer=out,
        vocab_size=900, model_type="bpe", byte_fallback=True, character_coverage=0.98, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
        minloglevel=2, num_threads=1)
    return out.getvalue()


def bpe_from_sentencepiece(data):
    """Vocabulary and merges as the published converters make them: a merge joins two pieces into a third."""
    sp = sentencepiece.SentencePieceProcessor(model_proto=data)
    vocab = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
    merges = []
    for piece, piece_id in vocab.items():
        local = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in vocab and piece[k:] in vocab]
        local.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges += [(piece_id, pair) for pair in local]
    merges = [pair for _, pair in sorted(merges, key=lambda m: m[0])]
    return vocab, merges


def byte_fallback(data, metaspace):
    vocab, merges = bpe_from_sentencepiece(data)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace is None:
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tok.pre_tokenizer = metaspace
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<unk>", "<s>", "</s>")])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tok


def llama2(data):
    config = {"bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": "</s>",
              "chat_template": LLAMA2_CHAT, "add_bos_token": True, "add_eos_token": False}
    return byte_fallback(data, None), config


def mistral(data):
    tok = byte_fallback(data, pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False))
    return tok, {"bos_token": "<s>", "eos_token": "</s>", "chat_template": MISTRAL_CHAT}


def metaspace(data):
    tok = byte_fallback(data, pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True))
    tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return tok, {"bos_token": "<s>", "eos_token": "</s>"}


def case(tok, raw):
    text = raw.decode("utf-8", errors="replace")
    ids = tok.encode(text, add_special_tokens=True).ids
    return {"hex": raw.hex(), "ids": ids, "plain_ids": tok.encode(text, add_special_tokens=False).ids,
            "text": tok.decode(ids, skip_special_tokens=False), "plain_text": tok.decode(ids, skip_special_tokens=True)}


def random_id_cases(tok, rng, n):
    """Cases of ids that no text encodes to: half characters, single bytes, special tokens anywhere."""
    size = tok.get_vocab_size()
    out = []
    for _ in range(n):
        ids = [rng.randrange(size + 5) for _ in range(rng.randrange(1, 24))]
        out.append({"ids": ids, "text": tok.decode(ids, skip_special_tokens=False),
                    "plain_text": tok.decode(ids, skip_special_tokens=True)})
    return out


def random_texts(rng, n, specials):
    """Random mixes of words, scripts, white space, marks, digits, special tokens and raw bytes."""
    words = sorted({w for text in CORPUS for w in text.split()})
    spaces = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\u00a0", "\u2003", "\u3000", "\u180e", "\u200b"]
    for _ in range(n):
        parts = []
        for _ in range(rng.randrange(1, 16)):
            kind = rng.randrange(9)
            if kind < 3:
                parts.append(rng.choice(words))
            elif kind == 3:
                parts.append(rng.choice(spaces) * rng.randrange(1, 4))
            elif kind == 4:
                parts.append("".join(rng.choice("0123456789٣५²Ⅷ") for _ in range(rng.randrange(1, 7))))
            elif kind == 5:
                low, high = rng.choice([(0, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x58F), (0x600, 0x6FF),
                                        (0x900, 0xDFF), (0x1F00, 0x20CF), (0x2100, 0x2BFF), (0x3040, 0x30FF),
                                        (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFD), (0x10000, 0x1FAFF),
                                        (0x20000, 0x2A6DF)])
                parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 6))))
            elif kind == 6:
                parts.append(rng.choice(["'s", "'S", "'Ll", "'RE", "’s", "'ſ", "e\u0301", "ŀ", "ﬁ", "İ", "ẞ", "▁", "▁▁"]))
            elif kind == 7:
                parts.append(rng.choice(specials))
            else:
                parts.append(" ")
        raw = "".join(parts).encode("utf-8", errors="replace")
        if rng.randrange(8) == 0 and raw:  # a damaged byte
            at = rng.randrange(len(raw))
            raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1:]
        yield raw


def render(template, messages, config):
    import jinja2
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    env.globals["raise_exception"] = lambda message: (_ for _ in ()).throw(ValueError(message))
    if isinstance(template, list):
        template = template[0]["template"]
    def text(token):
        return token["content"] if isinstance(token, dict) else token
    return env.from_string(template).render(
        messages=[{"role": r, "content": c} for r, c in messages], bos_token=text(config["bos_token"]),
        eos_token=text(config["eos_token"]), add_generation_prompt=True)


def chat_cases(tok, config):
    out = []
    for messages in CONVERSATIONS:
        if "chat_template" not in config:
            continue
        try:
            rendered = render(config["chat_template"], messages, config)
        except ValueError:  # this template takes no system message
            continue
        out.append({"messages": messages, "ids": tok.encode(rendered, add_special_tokens=False).ids})
    return out


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def as_saved(name, tok):
    """tokenizer.json in compact form. Some styles get the older spellings of published files."""
    data = json.loads(tok.to_str())
    if name in ("llama2", "gpt2"):  # older files write merges as "a b"
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    if name == "metaspace":  # older files have no prepend_scheme
        for part in (data["pre_tokenizer"], data["decoder"]):
            del part["prepend_scheme"], part["split"]
            part["add_prefix_space"] = True
    return data


def write_style(out, name, tok, config, n_random, rng):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    saved = as_saved(name, tok)
    tok = Tokenizer.from_str(json.dumps(saved))
    write_json(folder / "tokenizer.json", saved)
    write_json(folder / "tokenizer_config.json", config)
    specials = [t["content"] for t in saved["added_tokens"]]
    texts = [t if isinstance(t, bytes) else t.encode() for t in AWKWARD]
    for s in specials:
        texts += [f"{s}".encode(), f"a{s}b".encode(), f"  {s}  {s}\n{s}x".encode(), f"{s[:-1]} {s} ".encode()]
    texts += list(random_texts(rng, n_random, specials))
    write_json(folder / "cases.json", {
        "reference": f"tokenizers {tokenizers.__version__}", "cases": [case(tok, raw) for raw in texts],
        "decode_only": random_id_cases(tok, rng, max(20, n_random // 4)), "chats": chat_cases(tok, config)})


def encode_between(sp, text, specials):
    """The library does not know special tokens in a text, so each part of the text between them is encoded
    separately."""
    parts = re.split("(" + "|".join(re.escape(s) for s in specials) + ")", text)
    return [i for part in parts if part for i in ([specials[part]] if part in specials else sp.encode(part))]


def decode_without(sp, ids):
    return sp.decode([i for i in ids if 2 < i < sp.get_piece_size()])


def write_sentencepiece(out, data, n_random, rng):
    folder = out / "sentencepiece"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(data)
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": LLAMA2_CHAT, "added_tokens_decoder": {
        str(i): {"content": c, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                 "special": True} for i, c in ((0, "<unk>"), (1, "<s>"), (2, "</s>"), (900, "<pad>"))}}
    write_json(folder / "tokenizer_config.json", config)
    sp = sentencepiece.SentencePieceProcessor(model_proto=data)
    cases = []
    for raw in [t if isinstance(t, bytes) else t.encode() for t in AWKWARD] + list(
            random_texts(rng, n_random, ["<s>", "</s>", "<pad>"])):
        text = raw.decode("utf-8", errors="replace")
        ids = encode_between(sp, text, {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 900})
        cases.append({"hex": raw.hex(), "ids": [1] + ids, "plain_ids": ids, "plain_text": decode_without(sp, ids)})
    write_json(folder / "cases.json", {"reference": f"sentencepiece {sentencepiece.__version__}", "cases": cases})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent.parent / "tests/data/tokenizers")
    parser.add_argument("--random", type=int, default=40, help="Random texts per tokenizer.")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    data = sentencepiece_model()
    styles = {"llama3": llama3(), "qwen2": qwen2(), "gpt2": gpt2(), "o200k": o200k(), "split_mix": split_mix(),
              "llama2": llama2(data), "mistral": mistral(data), "metaspace": metaspace(data)}
    for name, (tok, config) in styles.items():
        write_style(args.out, name, tok, config, args.random, rng)
    write_sentencepiece(args.out, data, args.random, rng)


if __name__ == "__main__":
    main()
