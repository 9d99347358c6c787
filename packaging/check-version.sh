#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Prints the version of sparkd, or fails if sparkd/_version.py and the Debian changelog disagree.
set -eu
cd "$(dirname "$0")/.."

code=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' sparkd/_version.py)
changelog=$(sed -n '1s/^sparkd (\([^)]*\)) .*/\1/p' packaging/debian/changelog)
if [ -z "$code" ] || [ "$code" != "$changelog" ]; then
    echo "sparkd/_version.py says '$code', packaging/debian/changelog says '$changelog'" >&2
    echo "hint: begin a changelog entry for the version that _version.py names" >&2
    exit 1
fi
echo "$code"
