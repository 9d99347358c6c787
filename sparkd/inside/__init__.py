# SPDX-License-Identifier: Apache-2.0
"""What runs inside models' containers, by the engine's own Python: mounted read-only, on its path.

Nothing here imports anything of sparkd or of a library, and nothing of sparkd imports it.
"""
