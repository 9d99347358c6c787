# SPDX-License-Identifier: Apache-2.0
"""The commands of `sparkctl`, one module each; a module is imported when its command is run."""
