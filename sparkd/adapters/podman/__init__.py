# SPDX-License-Identifier: Apache-2.0
"""Podman: the client for containers and images, and its API service."""
