"""The benchmark of a given denoiser: what it counts, projects and prints."""

from pathlib import Path

import jax.numpy as jnp
import pytest
from purimetry.experiments import throughput
from purimetry.experiments.command_line import main


def row(task: str, t_star: int, seconds: float, **more) -> dict:
    return {"library": "ours", "precision": "float32", "task": task, "t_star": t_star, "images": 8, "seconds": seconds,
            **more}


def test_operations_of_a_product_are_two_for_each_pair():
    assert throughput._flops(lambda a, b: a @ b, jnp.ones((3, 5)), jnp.ones((5, 7))) == 2 * 3 * 5 * 7


def test_table_2_is_its_fifteen_cells_at_the_speed_of_a_timed_step():
    """Each cell: 1,000 images, 40 steps, a gradient through t* evaluations."""
    step = row("attack step", 10, 2.0)
    cells = sum(1000 * 40 * t_star * 2.0 / (8 * 10) for _ in range(3) for t_star in (10, 20, 50, 100, 150))
    assert throughput.table_2_hours(step) == pytest.approx(cells / 3600)


def test_the_command_prints_what_was_timed(monkeypatch, capsys):
    told = []
    measured = [row("purification", 10, 1.0, flops=2e12, matrix_rate=4e12, bytes=2**21), row("attack step", 10, 2.0)]
    monkeypatch.setattr(throughput, "run", lambda *arguments: told.append(arguments) or measured)
    assert main(["benchmarks", "--denoiser", "some/unet", "--images", "8", "--t-stars", "10"]) == 0
    assert told == [(Path("some/unet"), 8, (10,))]
    shown = capsys.readouterr().out
    assert "8.00 images/s      2,000 GFLOP/s,  50% of its matrix products         2 MiB" in shown
    assert f"4.00 images/s  Table 2: {throughput.table_2_hours(measured[1]):8.2f} h" in shown


def test_a_folder_without_a_denoiser_is_an_error(tmp_path, capsys):
    assert main(["benchmarks", "--denoiser", str(tmp_path)]) == 1
    assert "expected diffusers' config.json" in capsys.readouterr().err
