"""The shell files of launch/, under stand-ins for the programs that they call, and what shellcheck says of them."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SHELL = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))

# Says so when it is asked to stop, and ends with the given status.
TASK = "import os, signal, sys, time\n" \
       "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(int(sys.argv[1]))))\n" \
       "print('ready', flush=True)\ntime.sleep(60)"
# Like SLURM's own: one task, whose status it ends with; a SIGTERM to srun itself kills the task.
SRUN = f"""#!/usr/bin/env bash
echo "srun $*" >> calls
[ -n "${{FAILS:-}}" ] && exit "$FAILS"
{sys.executable} -c "$TASK" "${{STATUS:-0}}" &
echo $! > task
trap 'kill -9 $(cat task)' TERM
wait $(cat task); status=$?
exit $status
"""
SCANCEL = "#!/usr/bin/env bash\necho \"scancel $*\" >> calls\nkill -TERM \"$(cat task)\"\n"
RECORD = "#!/usr/bin/env bash\necho \"$(basename \"$0\") $*\" >> \"$CALLS\"\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", "-x", path.relative_to(ROOT)], cwd=ROOT, capture_output=True, text=True,
                           check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", [path for path in sorted(LAUNCH.iterdir()) if path.is_file() and path.suffix != ".md"],
                         ids=lambda path: path.name)
def test_every_file_opens_with_what_to_change_and_a_command(path):
    head = path.read_text()[:3000]
    if path.suffix == ".py":
        assert "python launch/local.py" in head
        return
    assert "What to change:" in head
    assert "source launch/env.sh" in head or any(line.startswith("#   ") for line in head.splitlines())


@pytest.fixture
def slurm(tmp_path):
    """`slurm(**variables)`: the batch script under stand-ins, started in a folder that looks like the repository."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / "launch").symlink_to(LAUNCH)
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", RECORD)):
        write(tools / name, text)

    def start(**variables):
        environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "TASK": TASK,
                       "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "8", "CALLS": str(tmp_path / "calls"),
                       "HOME": str(tmp_path), **variables}
        return subprocess.Popen(["bash", str(LAUNCH / "slurm_gpu.sbatch"), "gsm8k", "--workdir", "runs/with space"],
                                env=environment, stdout=subprocess.PIPE, text=True)
    return start


RUN = "srun --kill-on-bad-exit=1 --cpus-per-task=8 .venv/bin/python -m experiments.train gsm8k " \
      "--workdir runs/with space"


@pytest.mark.parametrize(("left", "status", "requeued"), [(300, 0, True), (7200, 0, False), (300, 3, False)])
def test_a_job_near_its_limit_saves_and_is_started_again(slurm, tmp_path, left, status, requeued):
    """Long before the limit it is somebody's wish, or a preemption: SLURM then starts it again by itself."""
    job = slurm(SLURM_JOB_END_TIME=str(int(time.time()) + left), STATUS=str(status))
    assert job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    assert output == "saved\n" and job.returncode == status
    assert calls(tmp_path) == [RUN, "scancel --signal=TERM 77"] + ["scontrol requeue 77"] * requeued


@pytest.mark.parametrize("status", ["0", "2"])
def test_the_status_of_the_run_is_that_of_the_job(slurm, tmp_path, status):
    """An end without a signal is not started again, whatever its status."""
    job = slurm(FAILS=status)
    job.communicate(timeout=60)
    assert job.returncode == int(status) and calls(tmp_path) == [RUN]


def test_what_slurm_is_asked_for():
    """One process a node; told in time; the same log; started again."""
    asked = dict((line.removeprefix("#SBATCH --") + "=").split("=")[:2] for line in
                 (LAUNCH / "slurm_gpu.sbatch").read_text().splitlines() if line.startswith("#SBATCH "))
    assert asked["ntasks-per-node"] == "1" and asked["open-mode"] == "append" and "requeue" in asked
    batch, name, seconds = asked["signal"].replace("@", ":").split(":")
    assert (batch, name) == ("B", "TERM") and int(seconds) + 60 <= 900      # SLURM may be a minute early


def test_the_environment_of_a_run(tmp_path):
    """What is set already stays as it is."""
    shown = subprocess.run(["bash", "-c", "source launch/env.sh; env"], cwd=ROOT, capture_output=True, text=True,
                           check=True, env={"HOME": "/home/a", "PATH": os.environ["PATH"], "NCCL_DEBUG": "INFO"}).stdout
    for line in ("JAX_COMPILATION_CACHE_DIR=/home/a/.cache/nft_jax/xla", "XLA_PYTHON_CLIENT_MEM_FRACTION=0.9",
                 "NCCL_DEBUG=INFO"):
        assert line in shown.splitlines()


def in_container(folder: Path, status: int) -> subprocess.Popen:
    return subprocess.Popen(["bash", str(LAUNCH / "to_the_end.sh"), str(folder), sys.executable, "-c", TASK,
                             str(status)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("summary", "status", "expected"), [
    ('{"finished": true}', 0, 0), ('{"finished": false}', 0, 75), (None, 0, 75), ('{"finished": true}', 3, 3)])
def test_a_container_ends_well_only_when_the_run_is_finished(tmp_path, summary, status, expected):
    if summary:
        (tmp_path / "summary.json").write_text(summary)
    container = in_container(tmp_path, status)
    assert container.stdout.readline() == "ready\n"
    container.send_signal(signal.SIGTERM)
    assert container.communicate(timeout=60)[0] == "saved\n" and container.returncode == expected


@pytest.fixture
def gcloud(tmp_path):
    """`gcloud(*arguments, state=...)`: the script under a gcloud that writes down what it is asked."""
    tools = tmp_path / "bin"
    tools.mkdir()
    write(tools / "gcloud", RECORD + "case $* in *describe*) echo \"$STATE\" ;; esac\n")

    def run(*arguments, **variables):
        done = subprocess.run(["bash", str(LAUNCH / "tpu_slice.sh"), *arguments], capture_output=True, text=True,
                              check=False, env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "NAME": "one",
                                                "ZONE": "z", "CALLS": str(tmp_path / "calls"), "STATE": "ACTIVE",
                                                **variables})
        return done, calls(tmp_path) if (tmp_path / "calls").exists() else []
    return run


def test_a_slice_is_asked_for_and_deleted(gcloud):
    _, asked = gcloud("create", TYPE="v6e-16", VERSION="v2-alpha-tpuv6e")
    assert asked == ["gcloud compute tpus queued-resources create one --node-id one --zone z --accelerator-type v6e-16 "
                     "--runtime-version v2-alpha-tpuv6e --spot"]
    done, asked = gcloud("delete")
    assert done.returncode == 0 and asked[1] == "gcloud compute tpus queued-resources delete one --zone z --force " \
                                                "--quiet"
    assert "--spot" not in gcloud("create", SPOT="")[1][-1]


def test_the_command_of_a_slice_runs_on_all_hosts(gcloud):
    """Arguments with blanks arrive whole; the process that is named is the training itself."""
    _, asked = gcloud("run", "gsm8k", "--data.template", "a {problem}")
    whole = "\n".join(asked)
    assert whole.startswith("gcloud compute tpus tpu-vm ssh one --zone z --worker=all --command=cd nft_jax")
    assert r"-m experiments.train gsm8k --data.template a\ \{problem\}  --workdir /mnt/nft/runs/one" in whole
    assert whole.endswith("& echo $! > run.pid")
    assert gcloud("stop")[1][-1].endswith("--worker=all --command=kill -TERM $(cat nft_jax/run.pid)")


def test_a_slice_that_was_taken_away_is_resumed(gcloud):
    if not (ROOT / ".git").exists():
        pytest.skip("install sends the commit, and there is no repository here")
    done, asked = gcloud("resume", "gsm8k")
    assert done.returncode == 0, done.stderr
    made = [line.split()[3:5] for line in asked if line.startswith("gcloud")]
    assert made == [["queued-resources", "delete"], ["queued-resources", "create"], ["queued-resources", "describe"],
                    ["tpu-vm", "scp"], ["tpu-vm", "ssh"], ["tpu-vm", "ssh"]]


def test_a_failure_of_gcloud_ends_the_script(gcloud, tmp_path):
    write(tmp_path / "bin" / "gcloud", "#!/bin/sh\nexit 9\n")
    assert gcloud("resume", "gsm8k")[0].returncode == 9
    done, _ = gcloud("nonsense")
    assert done.returncode == 2 and "bash launch/tpu_slice.sh create" in done.stderr and "SHARED" in done.stderr
