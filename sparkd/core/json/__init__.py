# SPDX-License-Identifier: Apache-2.0
"""JSON without loss: numbers as written, skeletons of large bodies, typed records."""
