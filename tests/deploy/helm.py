"""Parts of what the chart renders, for helm.sh and helm.node.sh.

  helm.py kubernetes FILE ...    writes FILE.kubernetes: the manifests that are Kubernetes' own
  helm.py configuration FILE     prints the gateway's configuration
  helm.py store FILE             prints the store's
  helm.py egress FILE NAME       prints the ports that this NetworkPolicy lets connections leave to
  helm.py topics FILE            prints its list of topics
  helm.py rules FILE             prints the rules of the PrometheusRule
  helm.py pods FILE              prints a pod for every pod template
  helm.py operator               prints definitions of the Prometheus operator's kinds, as loose as can be
  helm.py yaml FILE              prints the file as `rules` prints
  helm.py image TAR NAME FOLDER PROGRAM    makes an image of one layer, as `docker save` would, with the environment of deploy/Dockerfile
"""

import hashlib
import io
import json
import pathlib
import re
import sys
import tarfile

import yaml

OPERATOR = "monitoring.coreos.com"
DOCKERFILE = pathlib.Path(__file__).parents[2] / "deploy/Dockerfile"


def manifests(file):
    return [one for one in yaml.safe_load_all(pathlib.Path(file).read_text()) if one]


def one_of(file, kind):
    return next(one for one in manifests(file) if one["kind"] == kind)


def pods(file):
    for one in manifests(file):
        if "template" in one.get("spec", {}):
            pod = one["spec"]["template"]
            mounted = {volume["name"] for volume in pod["spec"]["volumes"]}
            for claim in one["spec"].get("volumeClaimTemplates", []):
                name = claim["metadata"]["name"]
                if name not in mounted:
                    pod["spec"]["volumes"].append({"name": name, "persistentVolumeClaim": {"claimName": f"{name}-0"}})
            yield {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {**pod["metadata"], "name": one["metadata"]["name"] + "-try"}}


def operator():
    for kind, plural in ("ServiceMonitor", "servicemonitors"), ("PrometheusRule", "prometheusrules"):
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"kind": kind, "plural": plural, "singular": kind.lower()}
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{OPERATOR}"},
            "spec": {"group": OPERATOR, "scope": "Namespaced", "names": names, "versions": [version]},
        }


def image(tar, name, folder, program):
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        files.add(folder, arcname=".")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    environment = re.findall(r"\b(CITYGATE_\w+=/\S+)", DOCKERFILE.read_text())
    settings = {"Entrypoint": [program], "User": "10001:10001", "Env": environment}
    config = {"architecture": "amd64", "os": "linux", "config": settings, "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    parts = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode(), "layer.tar": layer.getvalue()}
    with tarfile.open(tar, "w") as archive:
        for part, content in parts.items():
            entry = tarfile.TarInfo(part)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def main():
    match sys.argv[1:]:
        case ["kubernetes", *files]:
            for file in files:
                own = [one for one in manifests(file) if not one["apiVersion"].startswith(OPERATOR)]
                pathlib.Path(f"{file}.kubernetes").write_text(yaml.safe_dump_all(own))
        case ["configuration", file]:
            print(one_of(file, "ConfigMap")["data"]["citygate.toml"])
        case ["store", file]:
            print(one_of(file, "ConfigMap")["data"]["store.toml"])
        case ["egress", file, name]:
            policy = next(one for one in manifests(file) if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == name)
            print(*(port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]))
        case ["topics", file]:
            print(one_of(file, "ConfigMap")["data"]["topics.toml"], end="")
        case ["rules", file]:
            print(yaml.safe_dump({"groups": one_of(file, "PrometheusRule")["spec"]["groups"]}))
        case ["pods", file]:
            print(yaml.safe_dump_all(pods(file)))
        case ["operator"]:
            print(yaml.safe_dump_all(operator()))
        case ["image", tar, name, folder, program]:
            image(tar, name, folder, program)
        case ["yaml", file]:
            print(yaml.safe_dump(manifests(file)[0]))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
