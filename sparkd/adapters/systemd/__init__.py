# SPDX-License-Identifier: Apache-2.0
"""systemd: the user manager over D-Bus, `systemctl` readings, and sd_notify."""
