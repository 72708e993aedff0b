"""An NVIDIA Jetson Nano behind a fixed line, in its 10 W mode.

Computing: its graphics processor peaks at 472 GFLOP/s in float16, so 236 in float32 (NVIDIA's data
sheet); a fifth of that is assumed for training. Power: the mode's budget of 10 W (NVIDIA's power
modes: 5 W and 10 W). The line is a fixed one's mean of 2018, 46.12 and 22.44 Mbit/s (Ookla, The
World's Internet in 2018). Assumed: 3 W while sending, 2 W idle.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.devices.base import Availability, Device, Figure, Power, devices


@devices.register("jetson_nano")
@dataclass(frozen=True, kw_only=True)
class JetsonNano(Device):
    """The small board with a graphics processor."""

    share: Figure = 1.0
    flops: Figure = 4.7e10
    down_bps: Figure = 46.12e6
    up_bps: Figure = 22.44e6
    compute_w: Power = 10.0
    radio_w: Power = 3.0
    idle_w: Power = 2.0
    availability: Availability = field(default_factory=Availability)
