# SPDX-License-Identifier: Apache-2.0
"""Let Transformers ignore keys of RoPE settings whatever container they come in.

vLLM hands over a list where Transformers subtracts it from a set, which is an error of type.
"""

from mend import mend

mend(
    "transformers/modeling_rope_utils.py",
    r"received_keys -= ignore_keys",
    r"received_keys -= set(ignore_keys)",
    done=r"received_keys -= set\(ignore_keys\)",
)
