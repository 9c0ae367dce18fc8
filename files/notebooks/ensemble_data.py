"""Write an ensemble of gridded temperature and precipitation for one winter as a Zarr store.

    python ensemble_data.py /opt/hpchub/data/ensemble.zarr --scale 2

`--scale N` is the one size: a grid N times as fine in latitude and in longitude, a store N*N times as large.
In memory that is 0.1 GB for 1, 0.4 GB for 2 (the default), 27 GB for 16, a terabyte for 100; on disk a tenth of it.

What is real: the annual mean air temperature at 1.5 m of the Met Office Unified Model over North America
(scenario A1B, 240 years, from the package iris-sample-data). Its mean of 1990 to 2009 is the base of every member;
the difference of one of its years from the years around that one is what tells a member's winter from another's.

What is estimated from it: land, where the model warms as only land does; and elevation, from how much colder a place is
than the warmest land of its latitude, at 6.5 degrees per kilometre. So the mountains are in the right places, but lower
and smoother than the true ones, and the cold north-east looks higher than it is.

What is made up, from a seed: the days of the winter. A seasonal cycle that is stronger over land; travelling waves as
weather, which the members share in part; and precipitation a quarter of a wave away from the warmest air, more of it
where the air is warm and where it has to rise. It looks like weather, but nothing about a real day follows from it.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import numpy.typing as npt
import xarray as xr

Floats = npt.NDArray[np.floating[Any]]
Complexes = npt.NDArray[np.complexfloating[Any, Any]]

MODEL = "A1B_north_america.nc"
REGION = {"latitude": slice(23, 50), "longitude": slice(-128, -65)}  # the contiguous United States
DAYS = np.arange(np.datetime64("2000-12-01"), np.datetime64("2001-03-01")).astype("datetime64[ns]")  # one winter
LAPSE_RATE = 6.5  # degC per km, the standard atmosphere's
LOWEST = 5.0  # m, so that land is not sea
DIMENSIONS = ("member", "time", "lat", "lon")
EARTH = 6371.0  # radius, km
WAVES = 64
SHARED = 0.8  # how much of the weather's variance all members have in common
MEMBERS_PER_CHUNK = 5
CHUNK_BYTES = 32 * 2**20  # in memory; chunks of 10 to 100 MB suit Dask
PACKED = {"dtype": "int16", "scale_factor": 0.1, "_FillValue": -32768}  # a tenth of a degree or millimetre in two bytes
SIZES = "0.1 GB in memory for 1, 0.4 GB for 2, 27 GB for 16, a terabyte for 100"


@dataclass(frozen=True)
class Climate:
    """What every member has in common. The fields are (lat, lon) on the fine grid, but for `anomalies`."""

    lat: Floats  # degrees north
    lon: Floats  # degrees east, -180 to 180
    temperature: Floats  # annual mean, degC
    land: Floats  # 0 (sea) to 1 (land)
    elevation: Floats  # m
    anomalies: Floats  # (year, lat, lon) on the model's grid: what a year differs by from the 11 around it, degC


@dataclass(frozen=True)
class Weather:
    """Plane waves: a day's field is the sum over the waves of amplitude * northward * eastward."""

    northward: Complexes  # (lat, wave)
    eastward: Complexes  # (wave, lon)
    amplitudes: Complexes  # (member, day, wave)

    def fields(self, members: slice, days: slice) -> Complexes:
        """Give (member, day, lat, lon): real and imaginary part are fields of variance 1, a quarter of a wave apart."""
        chosen = self.amplitudes[members, days]
        return (chosen[:, :, np.newaxis, :] * self.northward) @ self.eastward


def read_model() -> xr.DataArray:
    """Give the model's annual mean temperature over the region: (year, latitude, longitude), degC."""
    path = Path(str(resources.files("iris_sample_data"))) / "sample_data" / MODEL
    with xr.open_dataset(path, decode_times=False) as dataset:
        field = dataset["air_temperature"].load()
    years = 1860 + np.arange(field.sizes["time"])
    field = field.rename(time="year").assign_coords(year=years, longitude=field["longitude"].values - 360.0)
    return field.sel(REGION) - 273.15


def estimate_land(model: xr.DataArray) -> Floats:
    """Give 1 where the model warms as only land does, else 0. The limit rises to the north, as the warming does."""
    warming = model.sel(year=slice(2070, 2099)).mean("year") - model.sel(year=slice(1860, 1909)).mean("year")
    mask = (warming > 3.7 + 0.05 * (model["latitude"] - 25)).astype(float)
    around = mask.rolling(latitude=3, longitude=3, center=True, min_periods=1).mean()
    return (around > 0.5).astype(float).values  # as most cells around it: one that differs is noise


def estimate_elevation(latitude: Floats, temperature: Floats, land: Floats) -> Floats:
    """Give metres above the sea: how much colder a place is than the warmest land of its latitude, by the lapse rate.

    The warmest land is an upper envelope, a parabola in latitude: least squares in which colder places count little.
    """
    y = (latitude - 37.5) / 14
    basis = np.broadcast_to(np.stack([y**0, y, y**2], axis=-1)[:, np.newaxis, :], (*temperature.shape, 3))
    inland = land > 0
    weight = inland.astype(float)
    excess = np.zeros_like(temperature)
    for _ in range(60):
        coefficients = np.linalg.lstsq((basis * weight[..., np.newaxis])[inland], (temperature * weight)[inland])[0]
        excess = temperature - basis @ coefficients
        weight = np.where(excess > 0, 1.0, 0.05)
    return np.where(inland, np.maximum(LOWEST, -excess / LAPSE_RATE * 1000), 0.0)


def refinement(count: int, scale: int) -> Floats:
    """Give the matrix (fine, coarse) that puts `scale - 1` points between neighbours, by Catmull-Rom splines."""
    matrix = np.zeros((scale * (count - 1) + 1, count))
    for row, position in enumerate(np.arange(matrix.shape[0]) / scale):
        left = min(int(position), count - 2)
        t = position - left
        matrix[row, max(left - 1, 0)] += -t / 2 + t**2 - t**3 / 2
        matrix[row, left] += 1 - 2.5 * t**2 + 1.5 * t**3
        matrix[row, left + 1] += t / 2 + 2 * t**2 - 1.5 * t**3
        matrix[row, min(left + 2, count - 1)] += (t**3 - t**2) / 2
    return matrix


def refine(field: Floats, scale: int) -> Floats:
    """Give the field (..., lat, lon) on a grid that is `scale` times as fine."""
    return refinement(field.shape[-2], scale) @ field @ refinement(field.shape[-1], scale).T


def make_climate(scale: int) -> Climate:
    """Read the model, estimate land and elevation, and put the fields on the fine grid."""
    model = read_model()
    mean = model.sel(year=slice(1990, 2009)).mean("year")
    lat, lon = model["latitude"].values.astype(float), model["longitude"].values.astype(float)
    land = estimate_land(model)
    return Climate(
        lat=np.linspace(lat[0], lat[-1], scale * (lat.size - 1) + 1),
        lon=np.linspace(lon[0], lon[-1], scale * (lon.size - 1) + 1),
        temperature=refine(mean.values, scale),
        land=refine(land, scale).clip(0, 1),
        elevation=refine(estimate_elevation(lat, mean.values, land), scale).clip(min=0),
        anomalies=(model - model.rolling(year=11, center=True).mean()).dropna("year").values,
    )


def make_weather(climate: Climate, members: int, random: np.random.Generator) -> Weather:
    """Draw waves of 700 to 5000 km that travel east at 6 to 14 m/s, and their amplitudes, which last for days."""
    length = np.exp(random.uniform(np.log(700), np.log(5000), WAVES))
    heading = random.uniform(-1.4, 1.4, WAVES)
    speed = random.uniform(6, 14, WAVES) * 86.4  # km per day
    x = np.deg2rad(climate.lon) * EARTH * np.cos(np.deg2rad(climate.lat.mean()))
    y = np.deg2rad(climate.lat) * EARTH
    number = 2 * np.pi / length
    strength = length**0.5 / np.sqrt((length**0.5) @ (length**0.5)) * np.sqrt(2)

    memory = np.exp(-1 / 3.0)  # per day
    noise = random.standard_normal((1 + members, DAYS.size, WAVES, 2)).view(complex)[..., 0] / np.sqrt(2)
    states = np.empty_like(noise)
    states[:, 0] = noise[:, 0]
    for day in range(1, DAYS.size):
        states[:, day] = memory * states[:, day - 1] + np.sqrt(1 - memory**2) * noise[:, day]
    mixed = np.sqrt(SHARED) * states[:1] + np.sqrt(1 - SHARED) * states[1:]
    phase = np.exp(-1j * number * np.cos(heading) * speed * np.arange(DAYS.size)[:, np.newaxis])
    return Weather(
        northward=np.exp(1j * np.outer(y, number * np.sin(heading))).astype(np.complex64),
        eastward=np.exp(1j * np.outer(number * np.cos(heading), x)).astype(np.complex64),
        amplitudes=(mixed * phase * strength).astype(np.complex64),
    )


def seasons(climate: Climate) -> tuple[Floats, Floats]:
    """Give (lat, lon) how far the coldest day is from the year's mean, and a day's deviation by weather; degC."""
    north = climate.lat[:, np.newaxis] - 25
    swing = (3 + 0.2 * north) + climate.land * (5 + 0.3 * north)
    return swing, 1.2 + 0.3 * swing


def from_coldest(days: npt.NDArray[np.datetime64]) -> Floats:
    """Give -1 for the coldest day of the year, and up to 1 for the warmest."""
    away = (days - np.datetime64("2001-01-20")) / np.timedelta64(1, "D")
    return -np.cos(2 * np.pi * away / 365.25)


def rain(climate: Climate, temperature: Floats, lift: Floats) -> Floats:
    """Give precipitation in mm per day where waves lift the air: more if it is warm, more on slopes that face west.

    `lift` has variance 1. The amount grows with what the air can hold (Magnus formula for saturation vapour pressure).
    """
    km_east = np.deg2rad(np.gradient(climate.lon)) * EARTH * np.cos(np.deg2rad(climate.lat))[:, np.newaxis]
    slope = np.gradient(climate.elevation, axis=1) / km_east  # m per km
    moisture = (np.exp(17.62 * temperature / (243.12 + temperature)) * 6.11 / 12) ** 0.6
    threshold = 0.55 - 0.12 * np.clip(slope, -3, 4)
    return 9 * moisture * (1 + 0.1 * np.clip(slope, -3, 6)) * np.maximum(0, lift - threshold) ** 1.5


def describe(climate: Climate, members: int, chunks: tuple[int, ...]) -> xr.Dataset:
    """Give the dataset with its two large fields, lazy and empty, in the chunks of the store."""
    empty = dask.array.zeros((members, DAYS.size, *climate.temperature.shape), chunks=chunks, dtype="float32")
    elevation = climate.elevation.astype("float32")
    return xr.Dataset(
        {
            "t_mean": (DIMENSIONS, empty, {"units": "degC", "long_name": "daily mean temperature"}),
            "prcp": (DIMENSIONS, empty, {"units": "mm/day", "long_name": "daily precipitation"}),
            "elevation": (("lat", "lon"), elevation, {"units": "m", "long_name": "estimated elevation"}),
        },
        coords={
            "member": ("member", np.arange(members), {"long_name": "ensemble member"}),
            "time": ("time", DAYS, {"long_name": "day"}),
            "lat": ("lat", climate.lat.astype("float32"), {"units": "degrees_north", "long_name": "latitude"}),
            "lon": ("lon", climate.lon.astype("float32"), {"units": "degrees_east", "long_name": "longitude"}),
        },
        attrs={
            "title": "An ensemble of one winter over the contiguous United States",
            "source": "Annual mean temperature and its differences from year to year: Met Office Unified Model, "
            "scenario A1B (iris-sample-data). Elevation: estimated from them. The days: made up from a seed.",
        },
    )


def write_store(store: Path, *, scale: int = 2, members: int = 100, seed: int = 2001) -> None:
    """Write the store block by block, so that a few chunks are in memory whatever the scale.

    The same arguments give the same values. Until it is complete its name ends in `.partial`.
    Raises FileExistsError if there is a store already, ValueError if scale or members is less than 1.
    """
    if scale < 1 or members < 1:
        raise ValueError("scale and members are whole numbers from 1 up")
    if store.exists():
        raise FileExistsError(f"{store} is there already: remove it first, or write to another place")
    partial = store.with_name(store.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)

    random = np.random.default_rng(seed)
    climate = make_climate(scale)
    weather = make_weather(climate, members, random)
    years = random.integers(len(climate.anomalies), size=members)
    swing, deviation = seasons(climate)

    deep = min(MEMBERS_PER_CHUNK, members)
    long = int(np.clip(CHUNK_BYTES // (8 * deep * climate.temperature.size), 1, DAYS.size))
    chunks = (deep, long, *climate.temperature.shape)
    encoding: dict[str, dict[str, object]] = {name: {**PACKED, "chunks": chunks} for name in ("t_mean", "prcp")}
    encoding["elevation"] = {"chunks": climate.temperature.shape}
    # Format 2 still has what 3 has not agreed on yet: consolidated metadata, one small file to open instead of many.
    describe(climate, members, chunks).to_zarr(partial, compute=False, zarr_format=2, encoding=encoding)
    for first in range(0, members, deep):
        ours = slice(first, min(first + deep, members))
        base = climate.temperature + refine(climate.anomalies[years[ours]], scale)
        for start in range(0, DAYS.size, long):
            days = slice(start, min(start + long, DAYS.size))
            waves = weather.fields(ours, days)
            season = swing * from_coldest(DAYS[days])[:, np.newaxis, np.newaxis]
            temperature = base[:, np.newaxis] + season + deviation * waves.real
            fields = {"t_mean": temperature, "prcp": rain(climate, temperature, waves.imag)}
            block = xr.Dataset({name: (DIMENSIONS, values.astype("float32")) for name, values in fields.items()})
            block.to_zarr(partial, region={"member": ours, "time": days}, consolidated=False)
    partial.rename(store)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and write the store; 0 if it is written, 1 with a sentence if not."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).split("\n\n")[0],
        epilog="What is real in it and what is made up: the text at the top of this file.",
    )
    parser.add_argument("store", type=Path, help="where to write, for example /opt/hpchub/data/ensemble.zarr")
    parser.add_argument("--scale", type=int, default=2, help=f"the size: {SIZES} (default: %(default)s)")
    parser.add_argument("--members", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=2001, help="another seed, another ensemble (default: %(default)s)")
    wanted = parser.parse_args(arguments)
    try:
        write_store(wanted.store, scale=wanted.scale, members=wanted.members, seed=wanted.seed)
    except (OSError, ValueError) as problem:
        print(f"{parser.prog}: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
