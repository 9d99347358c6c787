# SPDX-License-Identifier: Apache-2.0
"""Give the gate of Qwen3 Next's experts its quantisation.

AutoRound quantises the gate too; built without, it takes packed weights for plain ones. vLLM
0.16.0 has it itself.
"""

from mend import mend

mend(
    "vllm/model_executor/models/qwen3_next.py",
    r'quant_config=None,(\s+prefix=f"\{prefix\}\.gate")',
    r"quant_config=quant_config,\1",
    done=r'quant_config=quant_config,\s+prefix=f"\{prefix\}\.gate"',
)
