# SPDX-License-Identifier: Apache-2.0
"""Files of sparkd: configuration, keys, records, recipes, and weights."""
