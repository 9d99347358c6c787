# SPDX-License-Identifier: Apache-2.0
"""The command line, `sparkctl`: its entry point and the code that its commands share."""
