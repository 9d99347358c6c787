#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds dist/sparkd-VERSION.tar.gz and dist/sparkd-VERSION-py3-none-any.whl from the working tree,
# for `pip install` into a virtual environment. The tools for it, pinned by hash, are kept in the
# cache: $SPARKD_CACHE, by default ~/.cache/sparkd.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${SPARKD_CACHE:-$HOME/.cache/sparkd}
version=$(packaging/check-version.sh)
tools=$cache/wheel-tools-$(sha256sum packaging/build-requirements.txt | cut -c1-16)
mkdir -p "$cache" dist

if [ ! -d "$tools" ]; then
    fresh=$(mktemp -d "$cache/wheel-tools.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
        --require-hashes --no-deps \
        --only-binary :all: --target "$fresh" --requirement packaging/build-requirements.txt
    mv -T "$fresh" "$tools" 2>/dev/null || rm -rf "$fresh"
fi

# Times in the archives are those of the changelog, and modes do not come from the umask.
SOURCE_DATE_EPOCH=$(date +%s --date "$(sed -n 's/^ -- .*>  //p' packaging/debian/changelog | head -n 1)")
export SOURCE_DATE_EPOCH
umask 022

# A copy, as setuptools leaves its notes beside what it builds.
work=$(mktemp -d "$cache/wheel-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/sparkd
mkdir "$tree"
parts=(LICENSE MANIFEST.in Makefile README.md pyproject.toml ruff.toml setup.cfg
    containerfiles docs etc packaging sparkd units)
tar -c --exclude=__pycache__ --mode=u=rwX,go=rX --mtime="@$SOURCE_DATE_EPOCH" "${parts[@]}" |
    tar -x -C "$tree"
if ! PYTHONPATH=$tools python3 -m build --no-isolation --outdir "$work/out" "$tree" \
    >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
fi
mv "$work/out/sparkd-$version"* dist/
echo "wheel: dist/sparkd-$version-py3-none-any.whl" >&2
