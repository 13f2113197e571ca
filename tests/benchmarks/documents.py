"""A `bench.json` made up for tests: two rivals, two numbers of points, latencies and grades as asked for."""

from __future__ import annotations

from typing import Any

import numpy as np


def make_document(
    slow: float = 1.0, fall: float = 0.0, memory: int = 200_000_000, seed: int = 0, samples: int = 30
) -> dict[str, Any]:
    """slow: factor on the second rival's latency; fall: what its mIoU is lower by; seed: of the noise of timing."""
    rng, quality = np.random.default_rng(seed), np.random.default_rng(99)
    truths = quality.uniform(0.4, 0.9, (samples, 3))
    cases = []
    for rival, factor, lower in (("base <1>", 1.0, 0.0), ("adapted", slow, fall)):
        for points in (1, 2):
            whole = 0.05 * factor * np.exp(rng.normal(0, 0.05, (2, samples)))
            grades = [
                {
                    "scene": s,
                    "id": i,
                    "area": int(500 * (1 + 4 * i)),
                    "coarse_iou": truths[s, i] - 0.1,
                    "iou": truths[s, i] - lower,
                    "coarse_boundary": 0.5,
                    "boundary": truths[s, i],
                    "score": 0.9,
                }
                for s in range(samples)
                for i in range(3)
            ]
            cases.append(
                {
                    "name": f"{rival} · {points} point{'s' * (points > 1)}",
                    "rival": rival,
                    "label": f"{points} point{'s' * (points > 1)}",
                    "samples": [
                        {
                            "repeat": r,
                            "scene": s,
                            "prompts": 3,
                            "whole_s": whole[r, s],
                            "encoder_s": whole[r, s] * 0.6,
                            "loop_s": whole[r, s] * 0.4,
                            "host_s": whole[r, s] * 0.04,
                            "peak_bytes": memory,
                            "joules": None,
                        }
                        for r in range(2)
                        for s in range(samples)
                    ],
                    "grades": grades,
                }
            )
    return {
        "format": "resam-bench",
        "version": 1,
        "created": "2030-01-01T00:00:00+00:00",
        "command": "resam-bench base.resam adapted.resam --data <scenes>",
        "machine": {"processor": "some", "cores": 2, "memory_bytes": 8_000_000_000, "system": "Linux", "devices": [],
                    "board": None, "power_mode": None},
        "versions": {"python": "3.11.0"},
        "commit": None,
        "seeds": {"bootstrap": 0},
        "energy_source": None,
        "data": {"name": "made & up", "digest": "0", "boundary_tolerance": 2,
                 "scenes": [{"name": f"{s}.png", "width": 256, "height": 256, "instances": 3} for s in range(samples)]},
        "rivals": [
            {"name": name, "description": "somewhere", "size_bytes": 1_000_000, "about": {}, "load_s": 0.1,
             "first_s": 0.2, "peak_bytes": memory, "before_bytes": 1, "device_bytes": None,
             "proposals": [{"scene": 0, "proposed": 7, "found": [True, False, True]}]}
            for name in ("base <1>", "adapted")
        ],
        "cases": cases,
    }  # fmt: skip
