"""What a name with a colon means: `package.module:NAME` or `path/to/file.py:NAME`, of a reward, an objective or a
configuration of one's own. Verifier workers import this module, so there is no jax in it."""
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from nft_jax.config import Config
from nft_jax.types import InputError

PRESETS = "experiments.presets:PRESETS"      # the registry of presets, found from the folder that one starts from


def load(name: str, field: str) -> object:
    """The object of a name with a colon. A file is executed anew by every call. Raises InputError, naming the
    configuration's `field`, as `load_module`, and for a module without that attribute."""
    home, _, attribute = name.rpartition(":")
    module = load_module(home, field)
    if not hasattr(module, attribute):
        raise InputError(f"{field} is {name!r}: {home} has no {attribute!r}. Check the name.")
    return getattr(module, attribute)


def load_module(home: str, field: str) -> ModuleType:
    """The module of that name, or the module that the .py file of that path makes. Raises InputError, naming
    the configuration's `field`, when it is missing or fails as it is imported."""
    try:
        if not home.endswith(".py"):
            return importlib.import_module(home)
        path = Path(home).absolute()
        # A name that no installed module has: the file is not entered into sys.modules, and must not be taken for one.
        specification = importlib.util.spec_from_file_location(path.name, path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module
    except Exception as problem:           # whatever the user's own module raises
        raise InputError(f"{field} names {home!r}, which cannot be imported ({type(problem).__name__}: {problem}). "
                         "Check the name, and the folder that you start the run from.") from problem


def experiment(name: str, presets: str = PRESETS) -> Config:
    """The configuration of that name: of the registry `presets` (itself the name of a dict, loaded for a name
    without a colon), or "package.module:NAME", or "file.py:NAME". Raises InputError: no such name, or no
    Config."""
    ways = "write package.module:NAME or file.py:NAME of a Config"
    if ":" in name:
        config, known = load(name, "experiment"), ""
    else:
        try:
            registry = load(presets, "presets")
        except InputError as error:
            raise InputError(f"experiment is {name!r}, and there are no presets here ({error}). Start from the folder "
                             f"that has them, or {ways}.") from error
        config, known = registry.get(name), f"choose one of {', '.join(registry)}, or "
    if not isinstance(config, Config):
        raise InputError(f"experiment is {name!r}, which is no Config: {known}{ways}.")
    return config
