# SPDX-License-Identifier: Apache-2.0
"""Makes a checkpoint of random weights in the shape of a Llama, with another model's tokenizer.

    python3 weights.py 1b|8b TOKENIZER_DIRECTORY TARGET

Runs under a Python that has PyTorch and transformers, and knows nothing else of this project. What
such a model says means nothing; loading, memory and speed are those of a trained one.
"""

import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 49152
"""SmolLM2's. A larger one would make tokens that its tokenizer has no text for."""
SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SEED = 20260


def main(shape: str, tokenizer: Path, target: Path) -> None:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        **SHAPES[shape],
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=VOCABULARY,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=shape == "1b",
        torch_dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    print(f"{shape}: {sum(each.numel() for each in model.parameters()):,} parameters")
    model.save_pretrained(target, max_shard_size="20GB")
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, target / name)
    # safetensors writes files that only their owner may read.
    for path in target.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
