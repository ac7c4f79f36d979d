"""The Hugging Face hub where there is no network: its libraries wait and try again for half a minute, for each name."""
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS = 3.0                                                # for one connection
FLAGS = {"huggingface_hub.constants": "HF_HUB_OFFLINE", "datasets.config": "HF_HUB_OFFLINE"}


def hub_is_off() -> bool:
    """Whether the user has switched the hub off, as its libraries read HF_HUB_OFFLINE."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def unreachable() -> str:
    """Why no connection to the hub, or to the proxy in front of it, can be made; "" if one can, or if the user has
    switched the hub off, which its libraries say themselves."""
    if hub_is_off():
        return ""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    scheme = urlsplit(endpoint).scheme
    address = urlsplit(getproxies().get(scheme) or endpoint)
    port = address.port or {"http": 80, "https": 443}.get(address.scheme, 443)
    try:
        socket.create_connection((address.hostname, port), SECONDS).close()
    except OSError as error:
        return f"no connection to {address.hostname}: {error.strerror or error}"
    return ""


@contextmanager
def hub_without_retries() -> Iterator[str]:
    """Inside, the hub's libraries answer at once: from their cache, or with an error, if the hub is unreachable. Gives
    the reason why it is; "" where it is not.

    The libraries must be imported before: their switch is read when they are."""
    reason = unreachable()
    modules = {sys.modules[name]: flag for name, flag in FLAGS.items() if reason and name in sys.modules}
    before = {module: getattr(module, flag) for module, flag in modules.items()}
    try:
        for module, flag in modules.items():
            setattr(module, flag, True)
        yield reason
    finally:
        for module, value in before.items():
            setattr(module, modules[module], value)
