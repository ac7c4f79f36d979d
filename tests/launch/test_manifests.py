"""The YAML files and the Dockerfile of launch/: they name only what their documented schemas know and what is there."""
import re
import shlex
from pathlib import Path

import pytest
import yaml

from experiments.presets import PRESETS
from nft_jax.cli import parse
from nft_jax.runtime.distributed import cluster_of

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

# The documented fields that are used: name -> {} for any value, a schema for a mapping; [schema] for a list of them.
# JobSet: https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/ (api/jobset/v1alpha2/jobset_types.go).
# Job, pod: https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.34/ (JobSpec, PodSpec, Container).
METADATA = {"name": {}, "annotations": {}}
CONTAINER = {"name": {}, "image": {}, "command": {}, "args": {}, "env": [{"name": {}, "value": {}}],
             "resources": {"limits": {}}, "volumeMounts": [{"name": {}, "mountPath": {}}]}
POD = {"restartPolicy": {}, "terminationGracePeriodSeconds": {}, "nodeSelector": {}, "containers": [CONTAINER],
       "tolerations": [{"key": {}, "operator": {}, "value": {}, "effect": {}}],
       "volumes": [{"name": {}, "persistentVolumeClaim": {"claimName": {}}}]}
JOB = {"parallelism": {}, "completions": {}, "backoffLimit": {}, "template": {"spec": POD}}
JOBSET = {"apiVersion": {}, "kind": {}, "metadata": METADATA, "spec": {
    "failurePolicy": {"maxRestarts": {}}, "replicatedJobs": [{"name": {}, "replicas": {}, "template": {"spec": JOB}}]}}
# SkyPilot: https://docs.skypilot.co/en/latest/reference/yaml-spec.html
SKY = {"name": {}, "workdir": {}, "num_nodes": {}, "setup": {}, "run": {},
       "file_mounts": {"/runs": {"name": {}, "mode": {}}},
       "resources": {"accelerators": {}, "use_spot": {}, "disk_size": {},
                     "job_recovery": {"strategy": {}, "max_restarts_on_errors": {}}}}
# Dockerfile: https://docs.docker.com/reference/dockerfile/
INSTRUCTIONS = {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
                "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}


def unknown(value, schema, where="") -> list[str]:
    """Names of fields that the schema does not know."""
    if isinstance(schema, list):
        return [name for index, each in enumerate(value) for name in unknown(each, schema[0], f"{where}[{index}]")]
    if not schema:
        return []
    return [name for key, each in value.items() for name in (
        unknown(each, schema[key], f"{where}.{key}") if key in schema else [f"{where}.{key}"])]


def read(name: str) -> dict:
    return yaml.safe_load((LAUNCH / name).read_text())


@pytest.mark.parametrize(("name", "schema"), [("gke_jobset.yaml", JOBSET), ("sky_gpu.yaml", SKY)])
def test_only_documented_fields(name, schema):
    manifest = read(name)
    assert unknown(manifest, schema) == []
    wrong = yaml.safe_load((LAUNCH / name).read_text().replace("Restarts: 50", "Restart: 50").replace(
        "use_spot", "spot"))
    assert unknown(wrong, schema) in ([".spec.failurePolicy.maxRestart"], [".resources.spot"])


def named(command: str):
    """The configuration that the training command of a file makes."""
    words = shlex.split(command)
    preset, *arguments = words[words.index("experiments.train") + 1:]
    return parse(PRESETS[preset], "", arguments).config


def test_the_jobset_runs_a_preset_on_every_host():
    jobset = read("gke_jobset.yaml")
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    container, = pod["containers"]
    chips = [int(size) for size in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")]
    assert job["parallelism"] == job["completions"] == chips[0] * chips[1] // container["resources"]["limits"][
        "google.com/tpu"]
    script, folder = container["command"][1:]
    assert (ROOT / script).exists() and container["args"][-2:] == ["--workdir", folder]
    mount, = container["volumeMounts"]
    assert folder.startswith(mount["mountPath"] + "/") and mount["name"] == pod["volumes"][0]["name"]
    assert all(each["value"].startswith(mount["mountPath"]) for each in container["env"])
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"      # so that one failure starts all again
    assert named(shlex.join(container["args"])).folder == folder


def test_skypilot_runs_a_preset_where_its_mount_is():
    task = read("sky_gpu.yaml")
    command = next(line for line in task["run"].splitlines() if "experiments.train" in line)
    config = named(command)
    assert config.name == "qwen2_5_math_7b" and config.folder.startswith(next(iter(task["file_mounts"])) + "/")


@pytest.mark.parametrize(("nodes", "rank"), [(1, 0), (3, 2)])
def test_skypilots_variables_become_ours(nodes, rank):
    """The run section, with the training replaced by a look at the variables."""
    import subprocess
    script = read("sky_gpu.yaml")["run"].replace(".venv/bin/python -m experiments.train", "env; true")
    shown = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=True, env={
        "HOME": "/home/a", "PATH": "/usr/bin:/bin", "SKYPILOT_NUM_NODES": str(nodes), "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n10.0.0.3"}).stdout
    seen = dict(line.split("=", 1) for line in shown.splitlines() if line.startswith("NFT_"))
    found = cluster_of({"JAX_PLATFORMS": "cpu"} | seen)
    assert (found is None) if nodes == 1 else (found.address, found.count, found.index) == ("10.0.0.1:8476", 3, 2)


def test_the_image_is_made_of_what_is_there():
    text = re.sub(r"\\\n", " ", (LAUNCH / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert {name for name, _ in lines} <= INSTRUCTIONS and lines[0][0] == "FROM"
    for name, rest in lines:
        if name == "COPY":
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
    copied = " ".join(rest for name, rest in lines if name == "COPY")
    assert all(room in copied for room in ("requirements.txt", "nft_jax", "experiments", "launch"))
    assert dict(lines)["CMD"] == '["python", "-m", "experiments.quickstart"]'
