#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds dist/sparkd_VERSION_all.deb from the working tree, on Debian 12 or newer, as root if build
# tools have to be installed. A package that was built before from the same files is taken from the
# cache: $SPARKD_CACHE, by default ~/.cache/sparkd.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${SPARKD_CACHE:-$HOME/.cache/sparkd}
mkdir -p "$cache" dist
version=$(packaging/check-version.sh)
deb=sparkd_${version}_all.deb

say() { printf 'deb: %s\n' "$*" >&2; }

# What the package is made of; changes elsewhere in the tree rebuild nothing.
parts=(LICENSE README.md containerfiles docs etc packaging sparkd units)

list_inputs() {
    git -c safe.directory='*' ls-files -z --cached --others --exclude-standard -- "${parts[@]}" \
        2>/dev/null ||
        find "${parts[@]}" \( -type f -o -type l \) -print0
}

# Files that git still lists but that were deleted are left out, bytecode always.
mapfile -d '' inputs < <(
    list_inputs | LC_ALL=C sort -zu | while IFS= read -r -d '' file; do
        case $file in *.pyc) continue ;; esac
        [ ! -f "$file" ] || printf '%s\0' "$file"
    done
)

key=$(
    {
        stat --printf '%n %a\n' "${inputs[@]}"
        sha256sum "${inputs[@]}"
    } | sha256sum | cut -c1-16
)
built=$cache/debs/sparkd_${version}_all-$key.deb

deliver() {
    cmp -s "$built" "dist/$deb" || install -m 0644 "$built" "dist/$deb"
    say "dist/$deb"
    exit 0
}
[ ! -f "$built" ] || deliver

need=()
for package in debhelper dh-python dpkg-dev python3 python3-pip unzip; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
        need+=("$package")
done
if [ ${#need[@]} -gt 0 ] && [ "$(id -u)" != 0 ]; then
    say "these build tools are not installed: ${need[*]}"
    say "hint: sudo apt install --no-install-recommends ${need[*]}"
    exit 1
elif [ ${#need[@]} -gt 0 ]; then
    say "installing ${need[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

wheels=$cache/wheels-$(sha256sum packaging/vendor.txt | cut -c1-16)
if [ ! -d "$wheels" ]; then
    say "downloading the carried wheels"
    fresh=$(mktemp -d "$cache/wheels.XXXXXX")
    python3 -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps \
        --only-binary :all: --dest "$fresh" --requirement packaging/vendor.txt
    # Another build may have been quicker; its wheels have the same hashes.
    mv -T "$fresh" "$wheels" 2>/dev/null || rm -rf "$fresh"
fi

say "building $deb"
work=$(mktemp -d "$cache/deb-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/sparkd
mkdir -p "$tree/carried"
cp --parents --preserve=mode -t "$tree" -- "${inputs[@]}"
cp -r "$tree/packaging/debian" "$tree/debian"
for wheel in "$wheels"/*.whl; do
    unzip -q "$wheel" -d "$tree/carried"
done
rm -rf "$tree/carried/podman/tests"
# What a wheel says of itself is for pip, except name and version. Licences are in debian/copyright.
find "$tree"/carried/*.dist-info -type f ! -path '*.dist-info/METADATA' -delete
find "$tree"/carried/*.dist-info -type d -empty -delete
# The same bytes from the same sources: modes are neither those that archives name nor those of the
# clone's umask, and no file is older or newer than the changelog's last entry.
chmod -R u=rwX,go=rX "$tree"
find "$tree/carried" -type f -exec chmod a-x {} +
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog --file "$tree/debian/changelog" --show-field Timestamp)
export SOURCE_DATE_EPOCH
find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# Its own check would ask for a compiler, which every build is taken to need and this one does not.
if ! (cd "$tree" && dpkg-buildpackage --build=all --no-check-builddeps --unsigned-source \
    --unsigned-changes) >"$work/log" 2>&1; then
    cat "$work/log" >&2
    say "failed; the build's own output is above"
    exit 1
fi
mkdir -p "$cache/debs"
# The name appears only with the whole file behind it.
cp "$work/$deb" "$built.$$"
mv "$built.$$" "$built"
deliver
