"""Without network the hub's libraries neither wait nor try again."""
import os
import socket
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from nft_jax.runtime import network
from nft_jax.runtime.network import hub_is_off, hub_without_retries, unreachable

# A port that nobody listens on: connections are refused. Every wait between two tries ends the process.
ASKS = """
import sys, time
import datasets, huggingface_hub
time.sleep = lambda seconds: sys.exit(f"waits {seconds} s to try again")
from nft_jax.config import DataConfig
from nft_jax.data.sources import read_source
from nft_jax.model.hf import resolve_folder
from nft_jax.types import Unreachable
for ask in (lambda: read_source(DataConfig(source="some/questions")), lambda: resolve_folder("some/model")):
    try:
        ask()
    except Unreachable as error:
        print(error)
assert not (huggingface_hub.constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE)
"""


def test_nothing_is_tried_twice_without_network(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    done = subprocess.run([sys.executable, "-c", ASKS], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for line, name in zip(done.stdout.splitlines(), ("some/questions", "some/model"), strict=True):
        assert name in line and "no connection to 127.0.0.1" in line


@pytest.fixture
def asked(monkeypatch):
    """The addresses that are connected to; nothing is sent."""
    found = []
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: found.append(address) or SimpleNamespace(
        close=lambda: None))
    for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY",
                 "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.mark.parametrize(("environment", "address"), [
    ({}, ("huggingface.co", 443)), ({"HF_ENDPOINT": "http://mirror:8080"}, ("mirror", 8080)),
    ({"HTTPS_PROXY": "http://proxy:3128"}, ("proxy", 3128))])
def test_the_hub_or_the_proxy_in_front_of_it_is_asked(environment, address, asked, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert unreachable() == "" and asked == [address]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert unreachable() == "" and asked == [address]


def test_the_switch_is_set_back(monkeypatch):
    module_name = "stand_in"
    monkeypatch.setitem(sys.modules, module_name, ModuleType(module_name))
    sys.modules[module_name].HF_HUB_OFFLINE = False
    monkeypatch.setattr(network, "FLAGS", {module_name: "HF_HUB_OFFLINE"})
    for reason in ("no route", ""):
        monkeypatch.setattr(network, "unreachable", lambda reason=reason: reason)
        with pytest.raises(KeyError), hub_without_retries() as told:
            assert told == reason and bool(reason) == sys.modules[module_name].HF_HUB_OFFLINE
            raise KeyError
        assert sys.modules[module_name].HF_HUB_OFFLINE is False


@pytest.mark.parametrize(("value", "off"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_hub_is_off_as_its_libraries_read_it(monkeypatch, value, off):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub_is_off() == off
