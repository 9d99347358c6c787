# SPDX-License-Identifier: Apache-2.0
"""One outside thing a module (D-Bus, Podman, flock, HTTP, ...); none of them decides anything."""
