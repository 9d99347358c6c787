# SPDX-License-Identifier: Apache-2.0
"""Turns SmolLM2's GGUF file into the directory that vLLM serves.

Owns the mapping between the two formats: tensor names, the order of rotary rows, the
tokenizer's tables. It reads one file and writes one directory; fetching and caching are
the caller's. Everything is done on numpy arrays, so no PyTorch is needed.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor, dequantize

CONTROL_TOKEN = 3
CONFIG_MODE_BITS = 0o644

OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def served_name(gguf_name: str) -> str:
    if gguf_name in OUTER_NAMES:
        return OUTER_NAMES[gguf_name]
    _, layer, part, kind = gguf_name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def rotary_rows_in_halves(weights: np.ndarray, heads: int) -> np.ndarray:
    """GGUF interleaves the two rotary halves of each head; the served layout keeps them apart."""
    rows, columns = weights.shape
    pairs = weights.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def as_bfloat16(weights: np.ndarray) -> np.ndarray:
    """numpy has no bfloat16: its bits are the upper half of a float32, rounded to even."""
    bits = np.ascontiguousarray(weights, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def served_tensor(tensor: ReaderTensor, fields: dict[str, Any]) -> np.ndarray:
    weights = dequantize(tensor.data, tensor.tensor_type)
    if ".attn_q." in tensor.name:
        weights = rotary_rows_in_halves(weights, fields["llama.attention.head_count"])
    elif ".attn_k." in tensor.name:
        weights = rotary_rows_in_halves(weights, fields["llama.attention.head_count_kv"])
    return as_bfloat16(weights)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)))
        out.write(text)
        for tensor in tensors.values():
            out.write(tensor.tobytes())


def model_config(fields: dict[str, Any]) -> dict[str, Any]:
    width, heads = fields["llama.embedding_length"], fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": width // heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 10),
        "rope_theta": fields["llama.rope.freq_base"],
        "vocab_size": fields["llama.vocab_size"],
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def generation_config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def added_tokens(fields: dict[str, Any]) -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    kinds = fields["tokenizer.ggml.token_type"]
    return [
        {"id": number, "content": token, **plain, "special": True}
        for number, token in enumerate(fields["tokenizer.ggml.tokens"])
        if kinds[number] == CONTROL_TOKEN
    ]


def tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(fields),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**byte_level, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {t: number for number, t in enumerate(fields["tokenizer.ggml.tokens"])},
            "merges": [pair.split(" ") for pair in fields["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "chat_template": fields["tokenizer.chat_template"],
    }


def convert(source: Path, target: Path) -> None:
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {served_name(t.name): served_tensor(t, fields) for t in reader.tensors}
    target.mkdir(parents=True, exist_ok=True)
    write_safetensors(target / "model.safetensors", tensors)
    for name, content in {
        "config.json": model_config(fields),
        "generation_config.json": generation_config(fields),
        "tokenizer.json": tokenizer(fields),
        "tokenizer_config.json": tokenizer_config(fields),
    }.items():
        (target / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    for path in target.iterdir():
        path.chmod(CONFIG_MODE_BITS)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
