# SPDX-License-Identifier: Apache-2.0
"""Split the KV cache of MLA decoding by its length.

With four splits, whatever the length, most of GB10's processors have nothing to do in long
contexts. A released vLLM chooses the number itself by now.
"""

from mend import mend

mend(
    "vllm/v1/attention/backends/mla/triton_mla.py",
    r"num_kv_splits = 1 if vllm_is_batch_invariant\(\) else 4\b",
    "longest = attn_metadata.max_seq_len\n"
    "        num_kv_splits = (\n"
    "            1 if vllm_is_batch_invariant() else max(32, min(128, longest // 1500))\n"
    "        )",
    done=r"max\(32, min\(128, longest // 1500\)\)",
)
