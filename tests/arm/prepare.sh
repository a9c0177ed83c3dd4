#!/bin/sh
# Makes a folder with an emulated Python for ARM, for tests of the code for NEON on an x86 machine:
#
#   tests/arm/prepare.sh FOLDER
#   FOLDER/python -m pytest -p tests.arm.cross -p no:cacheprovider --timeout 0 tests/engine/cpu/test_gemm.py
#
# Needs Debian or a relative (apt-get, dpkg-deb), pip, and qemu-aarch64 or qemu-aarch64-static of
# version 8.1 or newer: older ones show the processor of the host in /proc/cpuinfo. QEMU names
# another one, COMPILE_PYTHON the interpreter that compiles kernels (default: .venv/bin/python).
# Nothing outside of FOLDER changes.
set -eu

repository=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd)
compiler=${COMPILE_PYTHON:-$repository/.venv/bin/python}
qemu=${QEMU:-$(command -v qemu-aarch64 || command -v qemu-aarch64-static)}

# The libraries of a minimal Python, from the same sources as the machine's own packages.
state=$folder/apt
mkdir -p "$state/lists/partial" "$state/archives/partial" "$folder/packages" "$folder/root"
: > "$state/status"
cat > "$state/conf" <<CONF
Dir::State "$state";
Dir::State::status "$state/status";
Dir::Cache "$state";
APT::Architecture "arm64";
APT::Architectures {"arm64";};
CONF
version=$(apt-cache depends python3 | sed -n 's/.*Depends: \(python3\.[0-9]*\)$/\1/p' | head -n 1)
export APT_CONFIG="$state/conf"
apt-get update -q
(cd "$folder/packages" && apt-get download -q libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 \
    libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libgomp1 "$version-minimal" "$version" \
    "lib$version-minimal" "lib$version-stdlib")
for package in "$folder"/packages/*.deb; do dpkg-deb -x "$package" "$folder/root"; done

# What the engine and its tests import, in the versions of the lock file.
names='numpy|onnx|ml-dtypes|protobuf|llvmlite|typing-extensions|pytest|pytest-timeout|pytest-asyncio'
names="$names|hypothesis|sortedcontainers|pluggy|iniconfig|packaging|pygments|sentencepiece|pillow"
names="$names|onnxruntime|flatbuffers|psutil"
grep -iE "^($names)==" "$repository/requirements/dev.txt" > "$folder/wheels.txt"
"$compiler" -m pip download -q --no-deps --only-binary=:all: --python-version "${version#python}" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    --dest "$folder/wheels" -r "$folder/wheels.txt"
for wheel in "$folder"/wheels/*.whl; do
    "$compiler" -m zipfile -e "$wheel" "$folder/site"
done

# Children that an emulated process starts by `sys.executable` come through this script, too.
cat > "$folder/python" <<PYTHON
#!/bin/sh
export PYTHONHOME="$folder/root/usr" PYTHONPYCACHEPREFIX="$folder/bytecode" PYTHONNOUSERSITE=1
export PYTHONPATH="$folder/site:$repository" OPENBLAS_NUM_THREADS=1
export MILLRACE_COMPILE_PYTHON="\${MILLRACE_COMPILE_PYTHON-$compiler}"
exec "$qemu" -L "$folder/root" -cpu "\${CPU:-cortex-a76}" -0 "$folder/python" \\
    "$folder/root/usr/bin/$version" "\$@"
PYTHON
chmod +x "$folder/python"
"$folder/python" -c 'from engine.cpu.target import host_target; print(host_target())'
