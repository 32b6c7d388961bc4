"""AUROC of flights' delays from a relational database, next to boosted trees on one flat table.

    python benchmarks/flights.py --data ../shared/data --seeds 3

Will a flight from New York arrive more than 15 minutes late? Trained on January to August 2013,
validated on September and October, tested on November and December; cancelled flights have no
label. The prediction is made at the start of the hour of the scheduled departure, from what is
known by then:

- of the flight: scheduled times, weekday, distance, carrier, plane, origin and destination;
- the weather at the origin in that hour, the plane's model, and the airports' positions;
- the delays of earlier flights: departures of the same plane, origin, and carrier at the origin,
  and arrivals of the same plane and at the same destination, which happened before that hour.

Its own departure and arrival, and the month, are left out. The graph has a node type for each table
and a relation for each foreign key, with reverses. An earlier departure or arrival is a node of its
own, from which edges lead only to later flights; so with two layers no outcome reaches an earlier
flight. The trees get the same columns joined to one table; earlier delays as the latest one, its
age, mean, maximum and count.

Both choose by the validation AUROC: the graph network its epoch, the trees their number of
leaves and iterations. `--database` keeps the graph as a folder of tables, which
`graphtheta partition` reads. `--json` appends a record per model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import sklearn
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

import graphtheta as gt
from graphtheta.bench.record import append, mean_and_deviation, provenance
from graphtheta.data.schema import matrix_column

LATE = 15  # minutes
LAST = {"train": 8, "val": 10, "test": 12}  # last month of each part
DAY = 24 * 60
SPAN = 1 << 20  # minutes, more than two years
WIDTH, DROPOUT, LR, BATCH, FANOUT = 64, 0.2, 0.003, 2048, 10
WEATHER = "temp dewp humid wind_dir wind_speed wind_gust precip pressure visib".split()
PLANE, AIRPORT = ("year", "engines", "seats"), ("lat", "lon", "alt")
GRID = [(0.05, 31), (0.05, 127)]
Columns = dict[str, NDArray[Any]]


class Database:
    """Tables of flights as arrays, with the earlier departures and arrivals that each flight knows.

    Attributes:
        known: Known columns of the flights, without keys.
        keys: Row of each flight's airline, plane, airports and weather; -1 if there is none.
        late: Whether each flight arrived late; NaN if unknown.
        part: Part of the split of each flight.
        tables: Columns of numbers of the other tables.
        events: Columns of departures and arrivals.
        hour: Time of each prediction.
        weather_origin: Row of the airport of each row of the weather.
        earlier: (flights, n) rows of the latest events before each flight by (event, name), the
            latest first; -1 if there are fewer.
    """

    def __init__(self, folder: Path) -> None:
        tables = {path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}
        flights = tables["flights"]
        month, delay = numbers(flights["month"]), numbers(flights["arr_delay"])
        self.late = np.where(np.isnan(delay), np.nan, delay > LATE)
        self.part = np.array([*LAST])[np.searchsorted([*LAST.values()], month)]
        hour = numbers(flights["time_hour"].cast(pa.int64())) // 60_000
        hour = (hour - (hour.min() // DAY - 2) * DAY).astype(np.int64)  # minutes from a midnight
        day = (numbers(flights["time_hour"].cast(pa.int64())) // 86_400_000).astype(np.int64)
        self.hour = hour
        scheduled, arrives = (minutes(flights[f"sched_{end}_time"]) for end in ("dep", "arr"))
        self.known: Columns = {
            "departs": scheduled,
            "arrives": arrives,
            "takes": (arrives - scheduled) % DAY,
            "weekday": day % 7,
            "distance": numbers(flights["distance"]),
        }
        self.keys = {
            column: rows_of(flights[column], tables[parent][key])
            for column, parent, key in (
                ("carrier", "airlines", "carrier"),
                ("tailnum", "planes", "tailnum"),
                ("origin", "airports", "faa"),
                ("dest", "airports", "faa"),
                ("weather_id", "weather", "weather_id"),
            )
        }
        self.weather_origin = rows_of(tables["weather"]["origin"], tables["airports"]["faa"])
        self.tables = {
            "airlines": {"number": np.arange(tables["airlines"].num_rows)},
            "planes": {name: numbers(tables["planes"][name]) for name in PLANE},
            "airports": {name: numbers(tables["airports"][name]) for name in AIRPORT},
            "weather": {name: numbers(tables["weather"][name]) for name in WEATHER},
        }
        zones = tables["airports"]["tzone"].to_numpy(zero_copy_only=False)
        left = hour + numbers(flights["minute"]) + numbers(flights["dep_delay"])
        local = left + self._offset(flights["time_hour"], zones)
        landed = left + (minutes(flights["arr_time"]) - local) % DAY
        self.events: dict[str, Columns] = {}
        for name, at, late in (
            ("departure", left, numbers(flights["dep_delay"])),
            ("arrival", landed, delay),
        ):
            rows = np.nonzero(~np.isnan(at + late))[0]
            self.events[name] = {
                "flight": rows,
                "at": at[rows].astype(np.int64),
                "delay": late[rows],
            }
        planes, origins, to = (self.keys[name] for name in ("tailnum", "origin", "dest"))
        self.earlier = {
            ("departure", "plane"): self._latest("departure", planes, 2, DAY),
            ("departure", "origin"): self._latest("departure", origins, 10, 2 * 60),
            ("departure", "carrier"): self._latest(
                "departure", origins * 64 + self.keys["carrier"], 5, 4 * 60
            ),
            ("arrival", "plane"): self._latest("arrival", planes, 1, DAY),
            ("arrival", "dest"): self._latest("arrival", to, 5, 6 * 60),
        }

    def _offset(self, times: pa.ChunkedArray, zones: NDArray[Any]) -> NDArray[Any]:
        """Return minutes by which clocks at the destination are ahead of UTC; NaN if unknown."""
        found = np.full(len(times), np.nan)
        of_flight = np.where(self.keys["dest"] < 0, None, zones[self.keys["dest"]])
        utc = numbers(times.cast(pa.int64()))
        for zone in set(of_flight) - {None}:
            there = pc.local_timestamp(times.cast(pa.timestamp("ms", zone))).cast(pa.int64())
            found = np.where(of_flight == zone, (numbers(there) - utc) // 60_000, found)
        return found

    def _latest(self, event: str, groups: NDArray[Any], count: int, span: int) -> NDArray[Any]:
        """Return the latest events of a flight's group in the time before it: (flights, count)."""
        events = self.events[event]
        of_event = groups[events["flight"]]
        order = np.lexsort((events["at"], of_event))
        sorted_keys = (of_event * SPAN + events["at"])[order]
        end, start = (
            np.searchsorted(sorted_keys, groups * SPAN + self.hour - ago) for ago in (0, span)
        )
        position = end[:, None] - 1 - np.arange(count + 1)
        valid = (position >= start[:, None]) & (groups >= 0)[:, None]
        rows = np.where(valid, order[position], -1)
        own = valid & (events["flight"][rows] == np.arange(len(rows))[:, None])  # left too early
        rows[own] = -1
        last = np.argsort(rows < 0, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(rows, last, axis=1)


def numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column with NaN for nulls."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def minutes(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return minutes since midnight of clock times such as 1830."""
    clock = numbers(column)
    return clock // 100 * 60 + clock % 100


def rows_of(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return the rows that foreign keys refer to; -1 for nulls."""
    return pc.index_in(keys, among.combine_chunks()).fill_null(-1).to_numpy().astype(np.int64)


# -- the graph ------------------------------------------------------------------------------------


def features(columns: Mapping[str, NDArray[Any]], known: NDArray[np.bool_]) -> pa.Array:
    """Return columns with a mean of 0 and a deviation of 1 of the rows that training knows.

    A missing value becomes 0, and its column gets a second one that is 1 there.
    """
    result = []
    for column in columns.values():
        some = column[known & ~np.isnan(column)]
        scaled = (column - some.mean()) / max(float(some.std()), 1e-6)
        result.append(np.nan_to_num(scaled))
        if np.isnan(column).any():
            result.append(np.isnan(column).astype(float))
    return matrix_column(np.stack(result, axis=1).astype(np.float32))


def write(data: Database, folder: Path) -> None:
    """Write the graph as a folder of tables for each node type and relation."""
    train = data.part == "train"
    end = data.hour[train].max()
    clock = {
        f"{name} {wave.__name__}": wave(2 * np.pi * data.known[name] / period)
        for name, period in (("departs", DAY), ("arrives", DAY), ("weekday", 7))
        for wave in (np.sin, np.cos)
    }
    is_known = ~np.isnan(data.late)
    nodes = {
        "flight": {
            "features": features({**data.known, **clock}, train),
            "late": pa.array(data.late == 1, mask=~is_known),
            "split": pa.array(data.part),
        },
        "airline": {"number": pa.array(data.tables["airlines"]["number"])},
    }
    seen = {  # rows of flights in the training split
        name: np.isin(
            np.arange(len(next(iter(data.tables[table].values())))), data.keys[key][train]
        )
        for name, table, key in (
            ("plane", "planes", "tailnum"),
            ("airport", "airports", "dest"),
            ("weather", "weather", "weather_id"),
        )
    }
    for name, table in (("plane", "planes"), ("airport", "airports"), ("weather", "weather")):
        nodes[name] = {"features": features(data.tables[table], seen[name])}
    for name, event in data.events.items():
        delay = event["delay"]
        columns = {
            "delay": delay,
            "log": np.sign(delay) * np.log1p(np.abs(delay)),
            "late": (delay > LATE).astype(float),
            "at": (event["at"] % DAY).astype(float),
        }
        nodes[name] = {"features": features(columns, event["at"] < end)}
    edges = {
        f"flight-{key}-{parent}": (np.arange(len(data.hour)), data.keys[key])
        for key, parent in (
            ("carrier", "airline"),
            ("tailnum", "plane"),
            ("origin", "airport"),
            ("dest", "airport"),
            ("weather_id", "weather"),
        )
    }
    edges["weather-at-airport"] = (np.arange(len(data.weather_origin)), data.weather_origin)
    for relation, (src, dst) in list(edges.items()):
        source, name, destination = relation.split("-")
        edges[f"{destination}-rev_{name}-{source}"] = dst, src
    for (event, name), rows in data.earlier.items():
        later = np.repeat(np.arange(len(rows)), rows.shape[1])
        edges[f"{event}-{name}-flight"] = rows.ravel(), later
    for name, columns in nodes.items():
        ids = pa.array(np.arange(len(next(iter(columns.values())))))
        pq.write_table(pa.table({"id": ids, **columns}), folder / f"nodes-{name}.parquet")
    for name, (src, dst) in edges.items():
        both = (src >= 0) & (dst >= 0)
        table = pa.table({"src": src[both], "dst": dst[both]})
        pq.write_table(table, folder / f"edges-{name}.parquet")


def train_rgcn(data: Database, folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Train R-GCN; `Trainer` keeps the epoch with the best validation AUROC."""
    begin = time.process_time()
    source = gt.datasets.read(str(folder), labels="flight.late", splits="flight.split")
    shard = gt.open_shard(gt.Graph.from_source(source))
    fanouts = {
        one: [None if one.destination == "flight" else FANOUT] * 2 for one in shard.relations
    }
    encoder = gt.nn.RGCN(
        WIDTH, WIDTH, 1, num_relations=shard.num_edge_types, dropout=DROPOUT, seed=seed
    )
    model = gt.nn.TypedInput(shard, WIDTH, encoder, embedding=["airport"], seed=seed)
    trainer = gt.Trainer(model, shard, strategy=gt.MiniBatch(BATCH, fanouts), lr=LR, seed=seed)
    summary = trainer.fit(epochs)
    found = {name: summary[f"{name}_auroc"] for name in ("val", "test")}
    seconds = time.process_time() - begin
    return {**found, "best_epoch": summary["best_epoch"], "cpu_seconds": seconds}


# -- the flat table -------------------------------------------------------------------------------


def flat(data: Database) -> tuple[NDArray[np.float64], list[int]]:
    """Return the columns of all tables in one, and which of them are categories."""
    columns: Columns = dict(data.known)
    categories = ["carrier", "origin", "dest"]
    for key, rows in data.keys.items():
        table = {"tailnum": "planes", "weather_id": "weather"}.get(key)
        table = "airports" if key in ("origin", "dest") else table
        if key in categories:
            dense = np.unique(rows, return_inverse=True)[1]
            columns[key] = np.where(rows < 0, np.nan, dense)
        for name, values in data.tables[table].items() if table else ():
            columns[f"{key} {name}"] = np.where(rows < 0, np.nan, values[rows])
    for (event, name), rows in data.earlier.items():
        at, delay = (data.events[event][column] for column in ("at", "delay"))
        missing = rows < 0
        delays = np.where(missing, np.nan, delay[rows])
        count = (~missing).sum(axis=1)
        some = np.where(count, count, np.nan)
        high = np.where(missing, -np.inf, delays).max(axis=1)
        title = f"{event} {name}"
        columns |= {
            f"{title} latest": delays[:, 0],
            f"{title} age": np.where(missing[:, 0], np.nan, data.hour - at[rows[:, 0]]),
            f"{title} mean": np.nansum(delays, axis=1) / some,
            f"{title} largest": np.where(count, high, np.nan),
            f"{title} count": count,
        }
    names = list(columns)
    return np.stack(list(columns.values()), axis=1), [names.index(name) for name in categories]


def train_trees(data: Database, folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Train gradient-boosted trees, whose parameters the validation AUROC chooses."""
    begin = time.process_time()
    table, categories = flat(data)
    known = ~np.isnan(data.late)
    x, y = ({p: v[known & (data.part == p)] for p in LAST} for v in (table, data.late))
    best: dict[str, Any] = {"val": 0.0}
    for rate, leaves in GRID:
        model = HistGradientBoostingClassifier(
            learning_rate=rate, max_leaf_nodes=leaves, max_iter=500, random_state=seed,
            categorical_features=categories, scoring="roc_auc", n_iter_no_change=20,
            early_stopping=True,
        )  # fmt: skip
        model.fit(x["train"], y["train"], X_val=x["val"], y_val=y["val"])
        found = {p: roc_auc_score(y[p], model.predict_proba(x[p])[:, 1]) for p in ("val", "test")}
        if found["val"] > best["val"]:
            best = {**found, "rate": rate, "leaves": leaves, "iterations": model.n_iter_}
    return {**best, "cpu_seconds": time.process_time() - begin}


MODELS: dict[str, Callable[[Database, Path, int, int], dict[str, Any]]] = {
    "rgcn": train_rgcn,
    "trees": train_trees,
}


def main() -> None:
    """Train all models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with nycflights13/")
    parser.add_argument("--models", default="rgcn,trees", help="models to train")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--epochs", type=int, default=6, help="number of epochs")
    parser.add_argument("--database", type=Path, help="folder to keep the graph in")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    parser.add_argument("--processes", type=int, default=1, help="seeds trained at the same time")
    parser.add_argument("--threads", type=int, default=1, help="number of threads of a process")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the processes that train
    data = Database(options.data / "nycflights13")
    print("| model | test AUROC | validation | seeds | CPU seconds a seed |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.database or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write(data, folder)
        for name in options.models.split(","):
            with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
                train = partial(MODELS[name], data, folder, epochs=options.epochs)
                outcomes = list(pool.map(train, range(options.seeds)))
            mean, deviation = mean_and_deviation([one["test"] for one in outcomes])
            val, seconds = (
                statistics.mean(one[key] for one in outcomes) for key in ("val", "cpu_seconds")
            )
            print(
                f"| {name} | {mean:.4f} ± {deviation:.4f} | {val:.4f} | {options.seeds} "
                f"| {seconds:.0f} |",
                flush=True,
            )
            if options.json:
                network = {"width": WIDTH, "dropout": DROPOUT, "lr": LR, "batch": BATCH}
                record = {
                    "benchmark": "flights",
                    "case": name,
                    "mean": mean,
                    "std": deviation,
                    "unit": "test AUROC",
                    "config": {**network, "fanout": FANOUT, "epochs": options.epochs, "grid": GRID},
                    "scikit-learn": sklearn.__version__,
                    "outcomes": outcomes,
                    **provenance(options.threads),
                }
                append(options.json, [record])


if __name__ == "__main__":
    main()
