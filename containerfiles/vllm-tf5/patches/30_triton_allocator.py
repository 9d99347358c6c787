# SPDX-License-Identifier: Apache-2.0
"""Have Triton take scratch memory from PyTorch.

Kernels that want scratch memory fail when no allocator is set, and one that asks the driver each
time is slow; PyTorch's keeps what it has freed.
"""

from mend import mend

mend(
    "vllm/triton_utils/__init__.py",
    r"\Z",
    """

if HAS_TRITON:

    def _allocate(size: int, alignment: int, stream: int | None):
        import torch

        return torch.empty(size, dtype=torch.int8, device="cuda")

    triton.set_allocator(_allocate)
""",
    done=r"triton\.set_allocator",
)
