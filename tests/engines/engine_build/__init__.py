# SPDX-License-Identifier: Apache-2.0
"""Builds the engines that test hosts start: images and weights, each once for each content."""
