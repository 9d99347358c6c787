# SPDX-License-Identifier: Apache-2.0
"""Leave null blocks out of the bookkeeping of full KV cache blocks.

Models with linear attention have them when prefixes are cached; without this their start ends in
an assertion. vLLM 0.16.0 has it itself.
"""

from mend import mend

mend(
    "vllm/v1/core/block_pool.py",
    r"( +)(assert blk\.block_hash is None)",
    r"\1if blk.is_null:\n\1    continue\n\1\2",
    done=r"if blk\.is_null:\n\s+continue",
)
