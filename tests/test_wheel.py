"""What `pip install nft_jax` gives: the library with its embedded model, and no package called `experiments`."""
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import nft_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements() -> set[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def test_requirements_are_the_dependencies_and_the_tests():
    assert requirements() == {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]}


def python(command: list, folder: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=300,
                          check=False, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The built wheel. It is built from a copy, so that no build/ folder is left in the checkout."""
    copy, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "nft_jax", "pyproject.toml", "README.md", "LICENSE", "experiments"],
                           cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    if not names:
        pytest.skip("not a git checkout: the files of the package are not known")
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    done = python([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", made, copy], made)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("the package index cannot be reached for setuptools")
    assert done.returncode == 0, done.stderr
    return next(made.glob("nft_jax-*.whl"))


def test_it_holds_the_library_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"nft_jax"}
    scripts = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert "nft-jax = nft_jax.cli:main" in scripts and wheel.name.startswith(f"nft_jax-{nft_jax.__version__}-")
    assert {"nft_jax/py.typed", "nft_jax/assets/nano/model.safetensors", "nft_jax/report/page.html"} <= set(names)


def test_its_metadata_ask_for_no_test_package(wheel):
    files = zipfile.ZipFile(wheel)
    metadata = files.read(next(name for name in files.namelist() if name.endswith("METADATA"))).decode()
    needed = {re.split(r"[ <>=!\[;]", line.removeprefix("Requires-Dist: "))[0]
              for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line}
    assert {"jax", "flax", "optax", "transformers"} <= needed
    assert not needed & {"pytest", "pytest-xdist", "hypothesis"}


def test_the_public_face_works_installed_from_any_folder(wheel, tmp_path):
    """In an environment of its own, which sees this one's packages but not the checkout."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    site = next((tmp_path / "env" / "lib").glob("python3*")) / "site-packages"
    packages = Path(sys.executable).parents[1] / "lib" / site.parent.name / "site-packages"
    (site / "dependencies.pth").write_text(f"{packages}\n")
    zipfile.ZipFile(wheel).extractall(site)
    elsewhere, interpreter = tmp_path / "elsewhere", tmp_path / "env" / "bin" / "python"
    elsewhere.mkdir()
    code = """
import importlib.util, sys
import nft_jax
assert nft_jax.__file__.startswith(sys.prefix), nft_jax.__file__
assert importlib.util.find_spec("experiments") is None
assert set(nft_jax.__all__) <= set(dir(nft_jax))
policy = nft_jax.load("nano")
answer, = nft_jax.sample(policy, ["17+25"], max_new_tokens=8, temperature=0.0)
verdict, = nft_jax.verify([r"\\\\boxed{34}"], ["34"])
config = nft_jax.Config()
print(answer.text != "", verdict.outcome, config.policy.path)
"""
    quick = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": os.environ["XLA_FLAGS"]}
    done = python([interpreter, "-c", code], elsewhere, env=quick | {"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "right", "nano"]
    line = "import sys; from nft_jax.cli import main; sys.exit(main())"
    asked = ["evaluate", "--model", "nano", "--suite", "mine=none.jsonl", "--max-new-tokens", "48"]
    for command, told in ((["train"], "policy.path is ''"), (["train", "quickstart"], "presets stand in the checkout"),
                          (asked, "mine.source is 'none.jsonl'")):
        done = python([interpreter, "-c", line, *command], elsewhere, env={"PATH": "/usr/bin:/bin"})
        assert done.returncode == 2 and told in done.stderr, done.stderr
    for module in ("nft_jax.report", "nft_jax.preflight", "nft_jax.verify", "nft_jax.rollout.generate"):
        shown = python([interpreter, "-m", module, "--help"], elsewhere, env={"PATH": "/usr/bin:/bin"})
        assert shown.returncode == 0 and module in shown.stdout, shown.stderr
