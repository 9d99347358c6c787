# SPDX-License-Identifier: Apache-2.0
"""Let Triton choose the type of strides in the fused MoE kernels.

Strides that are declared as 64 bits wide make every address computation of the kernel so, which
costs speed on GB10; no tensor here needs them. vLLM 0.16.0 has taken them back itself.
"""

from mend import mend

mend(
    "vllm/model_executor/layers/fused_moe/fused_moe.py",
    r"(\bstride_\w+): tl\.int64",
    r"\1",
    done=r"\A(?![\s\S]*\bstride_\w+: tl\.int64)",
)
