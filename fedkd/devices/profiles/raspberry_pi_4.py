"""A Raspberry Pi 4 Model B behind a fixed line.

Computing: 8 GFLOP/s in High Performance Linpack, float64, all cores
(https://feiereisen.net/?page_id=924); float32 training of small models is assumed to come to as
much. Power: 2.7 W idle, 6.4 W with all cores busy
(https://www.pidramble.com/wiki/benchmarks/power-consumption). The line is a fixed one's mean of
2018, 46.12 and 22.44 Mbit/s (Ookla, The World's Internet in 2018). Assumed: 3.5 W while sending.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.devices.base import Availability, Device, Figure, Power, devices


@devices.register("raspberry_pi_4")
@dataclass(frozen=True, kw_only=True)
class RaspberryPi4(Device):
    """The small single-board computer, on its processor."""

    share: Figure = 1.0
    flops: Figure = 8e9
    down_bps: Figure = 46.12e6
    up_bps: Figure = 22.44e6
    compute_w: Power = 6.4
    radio_w: Power = 3.5
    idle_w: Power = 2.7
    availability: Availability = field(default_factory=Availability)
