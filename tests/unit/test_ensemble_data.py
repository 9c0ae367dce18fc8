"""The script that writes the notebook's data."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import xarray as xr

SCRIPT = Path(__file__).parents[2] / "files" / "notebooks" / "ensemble_data.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ensemble_data", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def store(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("data") / "ensemble.zarr"
    assert script.main([str(path), "--scale", "1", "--members", "7"]) == 0
    return path


def test_the_store_opens_as_metadata_with_the_fields_and_units_that_the_notebook_uses(store: Path) -> None:
    data = xr.open_zarr(store)
    assert dict(data.sizes) == {"member": 7, "time": 90, "lat": 22, "lon": 34}
    assert (data.t_mean.units, data.prcp.units, data.elevation.units) == ("degC", "mm/day", "m")
    assert data.t_mean.chunks == ((5, 2), (90,), (22,), (34,))


def test_every_value_is_there_and_of_this_world(store: Path) -> None:
    data = xr.open_zarr(store).load()
    assert not any(field.isnull().any() for field in data.values())
    assert -60 < data.t_mean.min() < -10 < 25 < data.t_mean.max() < 40
    assert data.prcp.min() == 0
    assert 40 < data.prcp.max() < 300


def test_winter_is_colder_in_the_north_and_warmer_at_sea(store: Path) -> None:
    mean = xr.open_zarr(store).t_mean.mean(["member", "time"])
    dallas, winnipeg, atlantic = (
        float(mean.sel(lat=lat, lon=lon, method="nearest")) for lat, lon in ((32.8, -96.8), (49.9, -97.1), (32.8, -70))
    )
    assert winnipeg < -10 < 0 < dallas < atlantic


def test_the_rocky_mountains_are_high_and_the_atlantic_is_not(store: Path) -> None:
    elevation = xr.open_zarr(store).elevation
    assert elevation.sel(lat=39, lon=-107, method="nearest") > 1000
    assert elevation.sel(lat=33, lon=-70, method="nearest") == 0
    assert elevation.sel(lat=30, lon=-125, method="nearest") == 0


def test_members_differ_but_share_their_weather(store: Path) -> None:
    members = xr.open_zarr(store).t_mean.sel(lat=40, lon=-95, method="nearest").load()
    between = np.corrcoef(members.values)[np.triu_indices(7, 1)]
    assert 0.5 < between.min() < between.max() < 0.99


def test_the_same_seed_gives_the_same_store_and_another_seed_another(
    script: ModuleType, store: Path, tmp_path: Path
) -> None:
    assert script.main([str(tmp_path / "same"), "--scale", "1", "--members", "7"]) == 0
    assert script.main([str(tmp_path / "other"), "--scale", "1", "--members", "7", "--seed", "1"]) == 0
    first = xr.open_zarr(store).load()
    assert first.identical(xr.open_zarr(tmp_path / "same").load())
    assert not first.equals(xr.open_zarr(tmp_path / "other").load())


def test_scale_refines_the_grid_and_keeps_the_model_at_its_own_points(script: ModuleType) -> None:
    coarse, fine = script.make_climate(1), script.make_climate(3)
    assert fine.temperature.shape == (3 * 21 + 1, 3 * 33 + 1)
    np.testing.assert_allclose(fine.temperature[::3, ::3], coarse.temperature)
    np.testing.assert_allclose(fine.lon[::3], coarse.lon)


def test_writing_in_small_blocks_gives_the_same_store(
    script: ModuleType, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CHUNK_BYTES", 100_000)
    monkeypatch.setattr(script, "MEMBERS_PER_CHUNK", 2)
    script.write_store(tmp_path / "blocks", scale=1, members=7)
    blocks = xr.open_zarr(tmp_path / "blocks")
    assert len(blocks.t_mean.chunks[1]) > 1
    xr.testing.assert_equal(blocks.load(), xr.open_zarr(store).load())


def test_a_store_that_is_there_is_left_alone(
    script: ModuleType, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (store / "elevation" / ".zarray").stat().st_mtime_ns
    assert script.main([str(store)]) == 1
    assert "is there already: remove it first, or write to another place" in capsys.readouterr().err
    assert (store / "elevation" / ".zarray").stat().st_mtime_ns == before


def test_a_scale_of_zero_is_refused_before_anything_is_written(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path / "store"), "--scale", "0"]) == 1
    assert "whole numbers from 1 up" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_notebook_is_kept_without_outputs_and_asks_for_a_cluster_without_an_argument() -> None:
    cells = json.loads(SCRIPT.with_name("ensemble.ipynb").read_text())["cells"]
    code = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["id"] in code)
    assert "cluster = Cluster()\n" in code["cluster"]
