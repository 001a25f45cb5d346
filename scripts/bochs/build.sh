#!/usr/bin/env bash
# Builds a headless, statically linked Bochs 3.0 with VT-x from Debian's source pool.
#
#   build.sh DEST      leaves DEST/bochs, or nothing (the last step is a rename)
#
# Needs apt (its signed index is what vouches for the source), a C++ compiler and make. `cargo xtask` calls it
# with a DEST in the user's cache whose name holds the hash of this file and of the patch.
set -euo pipefail
dest=${1:?usage: build.sh DEST}
here=$(cd "$(dirname "$0")" && pwd)
version=3.0+dfsg-1
tarball=bochs_3.0+dfsg.orig.tar.xz
want=78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b

mkdir -p "$dest"
work=$(mktemp -d "${TMPDIR:-/tmp}/xenolith-bochs.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

# The mirror that this machine's own apt uses: no host name is written here.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p)
[ -n "$mirror" ] || { echo "apt knows no Debian index: run apt-get update as root, or add a Debian mirror" >&2; exit 1; }
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
printf 'deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$mirror" > "$work/sources.list"
cat > "$work/apt.conf" <<APT
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
APT::Sandbox::User "$(id -un)";
Debug::NoLocking "1";
APT
echo "bochs: fetching the source"
(
    export APT_CONFIG=$work/apt.conf
    cd "$work"
    apt-get -q=2 update
    # --tar-only: some mirrors lack the .dsc. apt checks the tarball against the signed Sources index.
    apt-get -q=2 source --only-source --download-only --tar-only "bochs=$version"
)
echo "$want  $work/$tarball" | sha256sum --check --quiet -

mkdir "$work/src" "$work/build"
tar -C "$work/src" --strip-components=1 -xf "$work/$tarball"
patch --quiet -d "$work/src" -p1 < "$here/vmx.patch"
cd "$work/build"
echo "bochs: configuring"
# Never --enable-show-ips: it deadlocks.
CFLAGS=-O2 CXXFLAGS=-O2 "$work/src/configure" \
    --with-nogui --without-x --disable-docbook --disable-xpm \
    --disable-plugins --disable-readline --disable-debugger --disable-cdrom --disable-show-ips \
    --enable-x86-64 --enable-smp --enable-cpu-level=6 --enable-vmx=2 --enable-svm \
    --enable-avx --enable-evex --enable-cet --enable-protection-keys --enable-uintr --enable-memtype \
    --enable-all-optimizations --enable-logging \
    --enable-pci --enable-e1000 --enable-ne2000 --enable-pnic > configure.log 2>&1 || { tail -20 configure.log >&2; exit 1; }

make -j"${JOBS:-$(nproc)}" bochs LDFLAGS=-all-static > make.log 2>&1 &
make=$!
trap 'kill "$make" 2>/dev/null || true; rm -rf "$work"' EXIT
while kill -0 "$make" 2>/dev/null; do
    done=$(find . -name '*.o' | wc -l)
    echo "bochs: compiled $done of about 470 files"
    sleep 5
done
wait "$make" || { tail -30 make.log >&2; exit 1; }
strip -o "$dest/bochs.new" bochs
mv "$dest/bochs.new" "$dest/bochs"
echo "bochs: built $dest/bochs"
