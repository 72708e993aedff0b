"""A phone of the middle range on a mobile network.

The network's mean of 2018: 22.82 and 9.19 Mbit/s (Ookla, The World's Internet in 2018). Radio: 1.29
W and 52 mW for every Mbit/s received, over LTE, so 2.5 W (Huang et al. 2012, A Close Examination of
Performance and Power Characteristics of 4G LTE Networks, https://doi.org/10.1145/2307636.2307658);
sending takes more than that. Assumed: 10 GFLOP/s of training on its processor at 4 W, 0.5 W idle.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkd.devices.base import Availability, Device, Figure, Power, devices


@devices.register("phone")
@dataclass(frozen=True, kw_only=True)
class Phone(Device):
    """A phone: slow to send, and sparing while it waits."""

    share: Figure = 1.0
    flops: Figure = 1e10
    down_bps: Figure = 22.82e6
    up_bps: Figure = 9.19e6
    compute_w: Power = 4.0
    radio_w: Power = 2.5
    idle_w: Power = 0.5
    availability: Availability = field(default_factory=Availability)
