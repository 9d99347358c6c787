# SPDX-License-Identifier: Apache-2.0
"""The catalog as clients see it: looking up a name, listing, and presence."""
