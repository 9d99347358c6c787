# SPDX-License-Identifier: Apache-2.0
"""The start of a model: presence, launch, memory guard, progress of the load."""
