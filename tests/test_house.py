"""The rooms of `nft_jax` and what they may import: an import goes down a floor or stays on its own, never up.

Read from the source, so imports inside functions count too: a lazy import is no way around a floor.
"""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nft_jax"

# Ground first. A module belongs to the longest name that it starts with.
FLOORS = {
    "types": 1, "config": 2, "runtime": 3, "verify": 4, "objectives": 4, "model": 4, "data": 5, "record": 6,
    "rollout": 7, "policy": 8, "train": 9, "preflight": 10, "report": 10, "cli": 11,
}
LOOSE = {"types", "policy", "cli"}          # modules that stand at the top of the package
BESIDE = {"assets"}                         # data, no modules


def modules() -> dict[str, Path]:
    """Every module of the package: dotted name without "nft_jax." -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, dotted; `from a import b` names a.b, whatever b is."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    found = set()
    for name in imported(path):
        head, _, rest = name.partition(".")
        if head != "nft_jax":
            continue
        while rest and rest not in MODULES:
            rest = rest.rpartition(".")[0]
        if rest:
            found.add(rest)
    return found


def floor(module: str) -> int:
    return FLOORS[module.split(".")[0]]


def test_every_module_has_a_room():
    rooms = {module.split(".")[0] for module in MODULES if module}
    assert rooms == set(FLOORS)
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert loose == LOOSE
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOORS) - LOOSE | BESIDE


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_imports_go_down(module):
    up = sorted(other for other in ours(MODULES[module]) if floor(other) > floor(module))
    assert not up, f"{module} (floor {floor(module)}) imports {', '.join(up)} from above"


def test_no_circle():
    """Modules can be put in an order in which each imports only earlier ones."""
    graph = {module: ours(path) - {module} for module, path in MODULES.items()}
    placed: set[str] = set()
    while len(placed) < len(graph):
        ready = {module for module in graph.keys() - placed if graph[module] <= placed}
        assert ready, f"a circle among {sorted(graph.keys() - placed)}"
        placed |= ready


def test_the_library_knows_no_experiment():
    named = {module: name for module, path in MODULES.items() for name in imported(path)
             if name.split(".")[0] in ("experiments", "tests", "launch")}
    assert not named


def test_the_verifier_knows_no_jax():
    """Its worker processes start in a second and hold no device."""
    below = {"verify", "config", "types"}
    named = {module: name for module, path in MODULES.items() if module.split(".")[0] in below
             for name in imported(path) if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "orbax")}
    assert not named
    runtime = {other for module, path in MODULES.items() if module.startswith("verify") for other in ours(path)
               if other.startswith("runtime")}
    heavy = {module for module in runtime for name in imported(MODULES[module]) if name.split(".")[0] == "jax"
             and not _inside_a_function(MODULES[module])}
    assert not heavy


def _inside_a_function(path: Path) -> bool:
    """Whether every import of jax in a file stands inside a function, so that the file loads without it."""
    tree = ast.parse(path.read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return not any("jax" in {alias.name.split(".")[0] for alias in node.names} or
                   getattr(node, "module", None) == "jax" for node in top)
