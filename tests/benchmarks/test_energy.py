"""Energy: what a made-up board says, and that slow sensors neither invent nor lose any."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from resam_benchmarks.measure import energy
from resam_benchmarks.measure.energy import EnergyMeter, jetson_rail, mean_power, rapl_counter


def write(root: Path, **files: object) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (root / name).write_text(f"{value}\n")


def test_a_jetsons_rail_is_the_one_that_feeds_the_module(tmp_path: Path) -> None:
    rail = {"in1_label": "VDD_CPU_GPU", "in1_input": 4000, "curr1_input": 900}
    write(tmp_path, **rail, in2_label="VDD_IN", in2_input=5000, curr2_input=2000)
    found = jetson_rail(str(tmp_path))
    assert found is not None
    name, watts = found
    assert (name, watts()) == ("INA3221 VDD_IN", pytest.approx(10.0))  # 5 V, 2 A
    assert jetson_rail(str(tmp_path / "none")) is None


def test_packages_are_added_and_their_parts_and_the_platform_are_not(tmp_path: Path) -> None:
    for folder, name, value in (
        ("intel-rapl:0", "package-0", 3_000_000),
        ("intel-rapl:1", "package-1", 2_000_000),
        ("intel-rapl:2", "psys", 9_000_000),
        ("intel-rapl:0:0", "core", 1_000_000),
    ):
        write(tmp_path / folder, name=name, energy_uj=value)
    found = rapl_counter(str(tmp_path))
    assert found is not None
    assert found[1]() == pytest.approx(5.0)
    assert rapl_counter(str(tmp_path / "none")) is None


def meter(
    monkeypatch: pytest.MonkeyPatch, rail: object = None, counter: object = None, gpus: object = None
) -> EnergyMeter:
    for name, found in (("jetson_rail", rail), ("rapl_counter", counter), ("gpu_power", gpus)):
        monkeypatch.setattr(energy, name, lambda found=found: found)
    return EnergyMeter()


def test_a_sensor_slower_than_what_is_measured_does_not_lengthen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> float:
        time.sleep(0.2)
        return 50.0

    made = meter(monkeypatch, gpus=("GPU", slow))
    assert made.sampled
    made.start()
    time.sleep(0.02)
    joules = made.stop()
    assert joules is not None
    assert 50 * 0.02 <= joules < 50 * 0.15


def test_processor_and_gpus_are_added_and_a_rail_has_them_both(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter([100.0, 107.0, 5.0, 1.0])
    made = meter(monkeypatch, counter=("CPU", lambda: next(counter)), gpus=("GPU", lambda: 0.0))
    assert made.source == "CPU + GPU"
    made.start()
    assert made.stop() == pytest.approx(7.0)
    made.start()
    assert made.stop() is None, "the counter wrapped around"
    rail = meter(monkeypatch, rail=("rail", lambda: 1.0), counter=("CPU", lambda: 1.0))
    assert rail.source == "rail"


def test_a_machine_without_a_sensor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = meter(monkeypatch)
    made.start()
    assert (made.source, made.sampled, made.stop()) == (None, False, None)


def test_mean_power_weighs_samples_by_the_time_between_them() -> None:
    assert mean_power([(0.0, 10.0), (1.0, 10.0), (4.0, 30.0)]) == pytest.approx((10 + 60) / 4)
    assert mean_power([(2.0, 7.0)]) == 7.0
