"""llama.cpp's own server with a tiny model of random weights, made here: a real engine for tests, on two cores in
seconds. The model speaks nonsense, but every token of it is really read, made and counted.

As a program (python -m tests.llamacpp FOLDER [PARALLEL]) it prints the server's address and runs until it is killed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

CONTEXT = 4096
EMBEDDING, HEADS, LAYERS, FEED_FORWARD = 256, 8, 4, 768
MERGES = 600
ALIAS = "tiny-random"
PARALLEL = 4
TEXT = """The quick brown fox jumps over the lazy dog, and the other animals of the forest look at one another.
A server reads a request, counts what it has read, writes an answer, and counts what it has written. When the reader
goes away the server stops, and what was written until then is what is owed. Nothing is lost and nothing is counted
twice. Numbers like 1, 12, 123 and 1234 appear here and there, as do words like "token", "model" and "meter"."""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_letters() -> dict[int, str]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others move above U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in plain}
    for number, byte in enumerate(byte for byte in range(256) if byte not in letters):
        letters[byte] = chr(256 + number)
    return letters


def learn_merges(text: str, count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """A byte-pair vocabulary learned from `text`: (tokens, merges in order)."""
    letters = byte_letters()
    words = Counter(re.findall(r" ?[A-Za-z]+| ?[0-9]+|[^A-Za-z0-9\s]+|\s+", text))
    split = {word: [letters[byte] for byte in word.encode()] for word in words}
    tokens = list(letters.values())
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        tokens.append("".join(best))
        for word, parts in split.items():
            split[word] = _merged(parts, best)
    return tokens, merges


def vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens by their ids, the special ones last, and the merges."""
    tokens, merges = learn_merges(TEXT, MERGES)
    return [*dict.fromkeys(tokens), *SPECIALS], merges


def ends_and_halves() -> dict[str, int]:
    """A logit bias against tokens that end an answer and against bytes that are no character by themselves (the server
    holds those back until the character is whole, so that a cut stream has made more than it has shown)."""
    letters = {letter: byte for byte, letter in byte_letters().items()}
    tokens, _ = vocabulary()
    unwanted = [
        number
        for number, token in enumerate(tokens)
        if token in SPECIALS or any(letters[letter] >= 0x80 for letter in token)
    ]
    return {str(number): -100 for number in unwanted}


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def write_model(path: Path) -> None:
    import gguf
    import numpy

    tokens, merges = vocabulary()
    end = len(tokens) - len(SPECIALS)
    types = [gguf.TokenType.NORMAL] * end + [gguf.TokenType.CONTROL] * len(SPECIALS)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(ALIAS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end + 2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    random = numpy.random.default_rng(7)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.5, shape).astype(numpy.float32))

    tensor("token_embd.weight", len(tokens), EMBEDDING)
    tensor("output.weight", len(tokens), EMBEDDING)
    writer.add_tensor("output_norm.weight", numpy.ones(EMBEDDING, numpy.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.ones(EMBEDDING, numpy.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{name}.weight", EMBEDDING, EMBEDDING)
        tensor(f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        tensor(f"blk.{layer}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
        tensor(f"blk.{layer}.ffn_down.weight", EMBEDDING, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(folder: Path, parallel: int) -> None:
    import xllamacpp

    model = folder / "tiny.gguf"
    if not model.exists():
        write_model(model)
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {ALIAS}
    params.n_ctx = CONTEXT * parallel
    params.n_parallel = parallel
    params.endpoint_metrics = True
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.port = 0
    params.hostnames = ["127.0.0.1"]
    server = xllamacpp.Server(params)
    print(json.dumps({"address": server.listening_address}), flush=True)
    while os.getppid() != 1:
        time.sleep(0.5)


class LlamaCpp:
    """A running llama.cpp server."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.base_url = f"{root}/v1"

    def counters(self) -> dict[str, int]:
        """The server's own totals, by the names /metrics has."""
        with urllib.request.urlopen(f"{self.root}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        pairs = [line.split() for line in lines if line.startswith("llamacpp:")]
        return {name.removeprefix("llamacpp:"): int(float(value)) for name, value in pairs}


@contextmanager
def llamacpp(folder: Path, *, parallel: int = PARALLEL) -> Iterator[LlamaCpp]:
    """Runs the server in a process of its own until the block ends."""
    argv = [sys.executable, "-m", "tests.llamacpp", str(folder), str(parallel)]
    with (folder / "llamacpp.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b'{"address"'):
                break
        else:
            raise RuntimeError(f"llama.cpp did not start; see {folder / 'llamacpp.log'}")
        yield LlamaCpp(json.loads(line)["address"])
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else PARALLEL)
