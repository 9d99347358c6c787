# SPDX-License-Identifier: Apache-2.0
"""Specifications of containers and units, and the recipes of images."""
