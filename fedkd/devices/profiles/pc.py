"""A desktop computer without a graphics card, behind a fixed line.

The line is a fixed one's mean of 2018, 46.12 and 22.44 Mbit/s (Ookla, The World's Internet in
2018). All else is assumed: 100 GFLOP/s of training on a few cores, 90 W for the whole machine while
it computes, 35 W while it sends, 30 W idle.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.devices.base import Availability, Device, Figure, Power, devices


@devices.register("pc")
@dataclass(frozen=True, kw_only=True)
class PC(Device):
    """A desktop computer."""

    share: Figure = 1.0
    flops: Figure = 10e10
    down_bps: Figure = 46.12e6
    up_bps: Figure = 22.44e6
    compute_w: Power = 90.0
    radio_w: Power = 35.0
    idle_w: Power = 30.0
    availability: Availability = field(default_factory=Availability)
