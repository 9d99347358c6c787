# SPDX-License-Identifier: Apache-2.0
"""Configuration: from YAML to settings and entries, with every problem found."""
