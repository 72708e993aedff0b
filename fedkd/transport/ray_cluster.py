"""Ray, for as long as a run needs it: a cluster that is there already, or one on this machine.

A cluster of our own listens on loopback only and has no dashboard. Ray is an optional extra, and
imported nowhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from typing import Any

from fedkd.errors import ConfigError
from fedkd.runtime import Backend, Device, Runtime

LOOPBACK = "127.0.0.1"
_ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch for clusters of several machines, named after where it is off; read on import."""


class Cluster:
    """A connection to Ray, begun by whoever makes this.

    Attributes:
        ray: the module.

    Raises:
        ConfigError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, runtime: Runtime) -> None:
        check_installed(runtime)
        address = runtime.ray_address or os.environ.get("RAY_ADDRESS", "")
        self.ray = _imported(alone=not address)
        self._ours = not self.ray.is_initialized()
        if self._ours:
            _begin(self.ray, runtime, address)

    def cpus(self) -> int:
        """Return how many CPUs the cluster has now."""
        return int(self.ray.cluster_resources().get("CPU", 0))

    def gpus(self) -> int:
        """Return how many GPUs the cluster has now."""
        return int(self.ray.cluster_resources().get("GPU", 0))

    def wants_gpus(self, device: Device) -> bool:
        """Return whether clients compute on GPUs.

        Raises:
            ConfigError: they should, and no machine has one.
        """
        if device is Device.CUDA and not self.gpus():
            raise ConfigError("runtime.device: 'cuda' is asked for, but no node of Ray has a GPU")
        return device is not Device.CPU and self.gpus() > 0

    def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        if self._ours:
            self.ray.shutdown()


def check_installed(runtime: Runtime) -> None:
    """Refuse a backend whose packages are not there; ConfigError says what to install."""
    if runtime.backend is not Backend.LOCAL and importlib.util.find_spec("ray") is None:
        raise ConfigError(
            f"runtime.backend: {runtime.backend.value!r} needs Ray, which is not installed; "
            "pip install 'fedkd[ray]'"
        )


def _imported(*, alone: bool) -> Any:
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    unset = alone and "ray" not in sys.modules and _ONE_MACHINE not in os.environ
    if unset:
        os.environ[_ONE_MACHINE] = "0"
    try:
        return importlib.import_module("ray")
    finally:
        if unset:
            del os.environ[_ONE_MACHINE]


def _begin(ray: Any, runtime: Runtime, address: str) -> None:
    """Connect or start, and leave signals as they were: Ray takes SIGTERM for itself."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        _knock(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            if address:
                ray.init(address=address, **quiet)
            else:
                cpus = None if runtime.workers == "auto" else runtime.workers
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        told = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"runtime.ray_address: no Ray at {address or 'this machine'!r} ({told}); start one "
            "with 'ray start --head', or leave ray_address and $RAY_ADDRESS empty"
        ) from None
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)
    if not address and ray.util.get_node_ip_address() != LOOPBACK:
        ray.shutdown()
        raise ConfigError(
            f"runtime.backend: Ray would listen beyond {LOOPBACK}, because it was imported before "
            f"fedkd; set {_ONE_MACHINE}=0 first, or give runtime.ray_address a cluster of yours"
        )


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself tries for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
