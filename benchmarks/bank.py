"""Fraud scores of a bank's accounts: raw Parquet tables, and scores by the command line only.

    python benchmarks/bank.py FOLDER --json benchmarks/results/bank.jsonl

FOLDER gets the tables of two months: `january` and `february`, each with `accounts.parquet` and
`transfers.parquet`, and `february-fraud.parquet`, the frauds of February that become known later.
Then the three commands of `docs/fraud.md` run: `partition`, `train` and `predict`. `train` also
runs on three workers, without class weights, and by defaults, with class weights and without.
The average precision of January is that of its test accounts, and that of February of all accounts.

**What is planted.** About one account in a hundred is a mule. Mules form rings of 4 to 12. Several
times a month, money of a victim enters a ring, passes from mule to mule with an hour or so between,
a few percent less each time, and leaves to an exchange. Rings are new each month.

**What hides it.** Mules also earn and spend as everybody does. They are more often young, with an
account that was opened by app and not long ago, and so are many others. Circles of friends, with as
many accounts, pass on such amounts too, by day and with days between. Exchanges have honest
customers, and cars are paid by instant transfers. Ages, incomes and devices are missing for some.

In February there are new accounts, some from countries and of products that January did not have,
and a new channel of transfers; some accounts have been closed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from graphtheta.bench.record import append, provenance

Array = NDArray[Any]
Columns = dict[str, Array]

DAY = 24 * 60  # minutes
MONTHS = {"january": np.datetime64("2026-01-01"), "february": np.datetime64("2026-02-01")}
DAYS = 28  # of a month
MULES = 0.01  # share of accounts
COUNTRIES = np.array("DE FR IT ES NL PL AT BE RO CZ LT MT".split())  # the last two: new accounts
PRODUCTS = np.array(["current", "savings", "joint", "student", "business", "youth"])  # as above
OPENED_BY = np.array(["branch", "web", "app", "partner", "video"])  # as above
CHANNELS = np.array(["card", "online", "instant", "transfer", "standing order", "wallet"])


class Accounts:
    """All accounts of both months.

    Args:
        number: Number of accounts in January.
        rng: Random generator.

    Attributes:
        table: Columns of the table.
        open_in: Rows of the accounts of each month.
        business: Whether each is a shop or an employer.
        town: Number of its town.
        activity: How often it pays, in relation to others.
        suspect: How likely it becomes a mule, in relation to others.
    """

    def __init__(self, number: int, rng: np.random.Generator) -> None:
        count = number + number // 20
        new = np.arange(count) >= number  # opened in February
        days = np.where(new, -rng.random(count) * DAYS, rng.exponential(2200, count))
        self.open_in = {
            "january": np.nonzero(~new)[0],
            "february": np.nonzero(new | (rng.random(count) > 0.02))[0],
        }
        product = rng.choice(5, count, p=[0.62, 0.15, 0.1, 0.08, 0.05])
        product = np.where(new & (rng.random(count) < 0.1), 5, product)
        self.business, student = product == 4, product == 3
        by = rng.choice(4, count, p=[0.5, 0.22, 0.2, 0.08])
        by = np.where((days < 1500) & (rng.random(count) < 0.4), 2, by)
        by = np.where(new & (rng.random(count) < 0.25), 4, by)
        country = rng.choice(10, count, p=zipf(10, 1.6))
        country = np.where(new & (rng.random(count) < 0.15), 10 + by % 2, country)
        age = rng.gamma(8, 6, count).clip(18, 95)
        age = np.where(student, 18 + age / 10, age)
        income = rng.lognormal(7.7, 0.5, count) * np.where(student, 0.3, 1)
        office = rng.choice(400, count, p=zipf(400, 0.8))
        self.town = rng.integers(0, max(1, count // 400), count)
        self.activity = rng.lognormal(0, 0.8, count)
        self.suspect = np.exp(1.2 * (days < 200) + 0.8 * (by >= 2) + 0.7 * (age < 30))
        self.suspect *= ~self.business
        names = (np.arange(count) * 7_368_787 + 48_271) % 10_000_000_019
        opened = MONTHS["february"].astype("M8[s]") - (days * 86_400).astype("m8[s]")
        self.table: Columns = {
            "account_id": texts("DE", names),
            "opened": opened,
            "product": PRODUCTS[product],
            "opened_by": OPENED_BY[by],
            "country": COUNTRIES[country],
            "office": texts("office-", office),
            "age": np.where(self.business | (rng.random(count) < 0.06), np.nan, age.round()),
            "income": np.where(rng.random(count) < 0.3, np.nan, income.round(2)),
            "online": rng.random(count) < 0.7,
        }


def month_of(
    accounts: Accounts, rows: Array, number: int, rng: np.random.Generator, *, wallet: bool
) -> tuple[Columns, Array]:
    """Return the transfers of a month, and which accounts are mules.

    Args:
        accounts: All accounts.
        rows: Those that are open.
        number: Number of transfers.
        rng: Random generator.
        wallet: Whether there are transfers by wallet.
    """
    is_business = accounts.business[rows]
    people, shops = rows[~is_business], rows[is_business]
    exchanges = shops[: max(2, len(shops) // 500)]
    mules = chosen(people, accounts.suspect, int(MULES * len(rows)), rng)
    friends = chosen(people, np.sqrt(accounts.suspect), int(MULES * len(rows)), rng)
    of_rings = passed_on(mules, people, exchanges, rng, gap=60, night=True)
    of_circles = passed_on(friends, people, people, rng, gap=2 * DAY, night=False)
    planted = {name: np.concatenate([of_rings[name], of_circles[name]]) for name in of_rings}
    usual = usual_transfers(
        accounts, people, shops, exchanges, number - len(planted["src"]), rng, wallet=wallet
    )
    both = {name: np.concatenate([usual[name], planted[name]]) for name in usual}
    order = np.argsort(both["minute"], kind="stable")
    is_mule = np.zeros(len(accounts.town), bool)
    is_mule[mules] = True
    return {name: column[order] for name, column in both.items()}, is_mule[rows]


def usual_transfers(
    accounts: Accounts,
    people: Array,
    shops: Array,
    exchanges: Array,
    number: int,
    rng: np.random.Generator,
    *,
    wallet: bool,
) -> Columns:
    """Return transfers of a month as everybody makes them."""
    kind = rng.choice(6, number, p=[0.54, 0.235, 0.07, 0.13, 0.02, 0.005])
    purchase, friend, salary, bill, large, invest = (kind == one for one in range(6))
    activity = accounts.activity[people]
    person = rng.choice(people, number, p=activity / activity.sum())
    shop = rng.choice(shops, number, p=zipf(len(shops), 0.8))
    src = np.where(salary, shop, person)
    dst = np.where(salary, person, shop)
    of_town = people[np.argsort(accounts.town[people], kind="stable")]
    end = np.searchsorted(accounts.town[of_town], accounts.town[person], "right")
    begin = np.searchsorted(accounts.town[of_town], accounts.town[person])
    neighbour = of_town[begin + (rng.random(number) * (end - begin)).astype(np.int64)]
    other = np.where(rng.random(number) < 0.7, neighbour, rng.choice(people, number))
    dst = np.where(friend | large, other, dst)
    dst = np.where(invest, rng.choice(exchanges, number), dst)
    middle = np.array([35, 50, 2400, 450, 2200, 900])[kind]
    spread = np.array([1.0, 1.2, 0.4, 0.8, 0.7, 1.0])[kind]
    channel = np.where(purchase, rng.choice(2, number, p=[0.75, 0.25]), 3)
    channel = np.where(bill, 4, channel)
    is_instant = rng.random(number) < np.where(large | invest, 0.7, 0.4)
    channel = np.where((friend | large | invest) & is_instant, 2, channel)
    if wallet:
        channel = np.where((purchase | friend) & (rng.random(number) < 0.15), 5, channel)
    day = rng.integers(0, DAYS, number)
    day = np.where(salary, rng.choice([0, 14, 27], number), day)
    day = np.where(bill, rng.integers(0, 5, number), day)
    return {
        "src": src,
        "dst": dst,
        "minute": day * DAY + minute_of_day(number, 0.04, rng),
        "amount": middle * np.exp(spread * rng.standard_normal(number)),
        "channel": channel,
        "device_days": rng.exponential(400, number),
    }


def passed_on(
    members: Array,
    sources: Array,
    ends: Array,
    rng: np.random.Generator,
    *,
    gap: float,
    night: bool,
) -> Columns:
    """Return transfers that pass money on from account to account, in groups of 4 to 12.

    Args:
        members: Accounts of all groups, in random order.
        sources: Accounts that the money is from.
        ends: Accounts that it is sent to at last.
        rng: Random generator.
        gap: Typical number of minutes until money is passed on.
        night: Whether money enters by day and by night, from new devices.
    """
    sizes = rng.integers(4, 13, len(members))
    first = np.cumsum(sizes) - sizes
    first, sizes = first[first + sizes <= len(members)], sizes[first + sizes <= len(members)]
    group = np.repeat(np.arange(len(sizes)), rng.integers(4, 11, len(sizes)))  # of each flow
    size, flows = sizes[group], len(group)
    order = np.where(np.arange(12) < size[:, None], rng.random((flows, 12)), 2).argsort(axis=1)
    length = rng.integers(3, size + 1)
    chain = np.full((flows, 14), -1)
    chain[:, 0] = rng.choice(sources, flows)
    chain[:, 1:13] = members[(first[group, None] + order).clip(max=len(members) - 1)]
    chain[np.arange(flows), length + 1] = rng.choice(ends, flows)
    step = np.arange(13)
    waits = gap * rng.lognormal(0, 0.8, (flows, 13)) * (step > 0)
    start = rng.integers(0, DAYS - 4, flows) * DAY
    start = start + (rng.random(flows) * DAY if night else minute_of_day(flows, 0.04, rng))
    minute = start[:, None] + waits.cumsum(axis=1)
    amount = rng.lognormal(7.7, 0.6, flows)[:, None]
    kept = rng.uniform(0.02, 0.06, (flows, 13)) * (step > 0)
    amount = amount * np.cumprod(1 - kept, axis=1)
    if not night:
        at = minute_of_day(flows * 13, 0.04, rng).reshape(flows, 13)
        minute = np.where(step > 0, minute // DAY * DAY + at, minute)
        amount = amount * rng.lognormal(0, 0.2, amount.shape)
    some = step <= length[:, None]
    number = int(some.sum())
    is_new = rng.random(number) < (0.4 if night else 0.0)
    return {
        "src": chain[:, :-1][some],
        "dst": chain[:, 1:][some],
        "minute": minute[some] % (DAYS * DAY),
        "amount": amount[some],
        "channel": np.where(rng.random(number) < (0.85 if night else 0.6), 2, 3),
        "device_days": rng.exponential(np.where(is_new, 20, 400)),
    }


def chosen(rows: Array, weight: Array, number: int, rng: np.random.Generator) -> Array:
    """Return some rows in random order, by weight."""
    return rng.choice(rows, number, replace=False, p=weight[rows] / weight[rows].sum())


def minute_of_day(number: int, night: float, rng: np.random.Generator) -> Array:
    """Return minutes of the day, a share of which is spread over all 24 hours."""
    by_day = rng.normal(14.5, 3.5, number) * 60
    return np.where(rng.random(number) < night, rng.random(number) * DAY, by_day % DAY)


def zipf(count: int, power: float) -> Array:
    """Return probabilities that fall with a power of the position."""
    weights = np.arange(1, count + 1) ** -power
    return np.asarray(weights / weights.sum())


def texts(prefix: str, numbers: Array) -> Array:
    """Return texts of a prefix and a number."""
    return np.char.add(prefix, numbers.astype(str))


def write_months(folder: Path, *, accounts: int, transfers: int, seed: int = 0) -> None:
    """Write the tables of both months, which depend on nothing but the arguments.

    Args:
        folder: Folder of the months; made if missing.
        accounts: Number of accounts in January.
        transfers: Number of transfers of each month.
        seed: Random seed.
    """
    rng = np.random.default_rng(seed)
    bank = Accounts(accounts, rng)
    for month, first_day in MONTHS.items():
        rows = bank.open_in[month]
        is_february = month == "february"
        made, is_mule = month_of(bank, rows, transfers, rng, wallet=is_february)
        table: Columns = {name: column[rows] for name, column in bank.table.items()}
        if is_february:
            truth = {"account_id": table["account_id"], "fraud": is_mule}
            pq.write_table(pa.table(truth), folder / "february-fraud.parquet")
        else:
            table["fraud"] = is_mule
        by_person = np.isin(made["channel"], [1, 2, 5])
        paid = {
            "from_account": bank.table["account_id"][made["src"]],
            "to_account": bank.table["account_id"][made["dst"]],
            "time": first_day.astype("M8[s]") + (made["minute"] * 60).astype("m8[s]"),
            "amount": made["amount"].round(2).clip(0.01),
            "channel": CHANNELS[made["channel"]],
            "device_days": np.where(by_person, made["device_days"].round(), np.nan),
        }
        (folder / month).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), folder / month / "accounts.parquet")
        pq.write_table(pa.table(paid), folder / month / "transfers.parquet")


# -- the job --------------------------------------------------------------------------------------

TABLES = "--nodes january/accounts.parquet --edges january/transfers.parquet".split()
COLUMNS = {
    "--id": "account_id",
    "--src": "from_account",
    "--dst": "to_account",
    "--features": "age:standard,income:log,opened,product,opened_by,country,office:hash(32),online",
    "--edge-features": "amount:log,time:cyclic(hour),channel,device_days:log",
    "--label": "fraud",
    "--split": "random(0.6,0.2)",
}
PARTITION = [*TABLES, *(word for pair in COLUMNS.items() for word in pair), "--undirected"]
WEIGHTS = "--class-weight balanced --monitor average_precision".split()
MODEL = "--model gat-e --hidden 8 --heads 4".split()
TRAININGS = {  # options and workers
    "fraud": ([*MODEL, *WEIGHTS], 1),
    "three workers": ([*MODEL, *WEIGHTS], 3),
    "without weights": (MODEL, 1),
    "defaults": ([], 1),
    "defaults and weights": (WEIGHTS, 1),
}
# A process of its own, because a process counts the memory of the one that starts it as its peak.
MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = used.ru_utime + used.ru_stime
print(json.dumps({"cpu_seconds": seconds, "bytes": used.ru_maxrss * 1024}))
sys.exit(code)
"""


def command(folder: Path, log: str, *words: object, workers: int = 1) -> dict[str, float]:
    """Run a command of graphtheta; return its seconds of CPU, and the bytes of the largest worker.

    Args:
        folder: Folder to run it in.
        log: Name of the file of its output.
        words: The command.
        workers: Number of workers.
    """
    job = ["mpiexec", "-n", str(workers)] if workers > 1 else []
    line = [*job, sys.executable, "-m", "graphtheta", *map(str, words)]
    with (folder / f"{log}.log").open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *line],
            check=False, cwd=folder, stdout=subprocess.PIPE, stderr=file, text=True,
        )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(line)}\n{(folder / f'{log}.log').read_text()}")
    return dict(json.loads(done.stdout))


def average_precision(is_yes: Array, score: Array) -> float:
    """Return the average precision, without interpolation; ties count together."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(is_yes[order])
    last = np.append(np.diff(score[order]) != 0, True)  # of each group of equal scores
    hits, number = hits[last], np.flatnonzero(last) + 1
    return float(np.sum(np.diff(hits, prepend=0) * hits / number) / max(hits[-1], 1))


def scored(truth: pa.Table, scores: Path) -> tuple[Array, Array, Array]:
    """Return the truth, the probabilities and the predictions of a month, in the order of truth."""
    found = pq.read_table(scores)
    rows = pc.index_in(truth["account_id"], found["id"].combine_chunks())
    taken = found.take(rows)
    return tuple(
        np.asarray(column.to_numpy())
        for column in (truth["fraud"], taken["probability"], taken["prediction"])
    )  # type: ignore[return-value]


def quality(is_yes: Array, score: Array, predicted: Array, is_new: Array) -> dict[str, float]:
    """Return what scores of February are worth."""
    hits = float((is_yes & predicted).sum())
    return {
        "february_average_precision": average_precision(is_yes, score),
        "february_average_precision_of_new_accounts": average_precision(
            is_yes[is_new], score[is_new]
        ),
        "february_precision": hits / max(float(predicted.sum()), 1.0),
        "february_recall": hits / float(is_yes.sum()),
    }


def run_job(folder: Path, name: str, epochs: int | None, is_new: Array) -> dict[str, Any]:
    """Train, score February, and return the figures."""
    options, workers = TRAININGS[name]
    words = ["--run-dir", f"runs/{name}", *options]
    words += [] if epochs is None or "defaults" in name else ["--epochs", epochs]
    scores = f"scores/{name}"
    trained = command(folder, f"train {name}", "train", "bank", *words, workers=workers)
    predict = ("predict", f"runs/{name}", "february", "--out", scores)
    predicted = command(folder, f"predict {name}", *predict, workers=workers)
    summary = json.loads((folder / "runs" / name / "summary.json").read_text())
    kept = [f"{split}_{of}" for split in ("val", "test") for of in ("average_precision", "auroc")]
    kept += [f"test_{of}{at}" for of in ("precision", "recall") for at in ("", "_at_threshold")]
    truth = pq.read_table(folder / "february-fraud.parquet")
    return {
        **{key: summary[key] for key in (*kept, "threshold", "best_epoch")},
        **quality(*scored(truth, folder / scores), is_new),
        "train": trained,
        "predict": predicted,
    }


def difference(folder: Path, name: str, other: str) -> dict[str, float]:
    """Return how far two runs differ: losses, relative, and scores of February."""
    losses, probabilities, predictions = [], [], []
    for run in (name, other):
        lines = (folder / "runs" / run / "metrics.jsonl").read_text().splitlines()
        losses.append(np.array([json.loads(line)["loss"] for line in lines]))
        _, probability, predicted = scored(
            pq.read_table(folder / "february-fraud.parquet"), folder / "scores" / run
        )
        probabilities.append(probability)
        predictions.append(predicted)
    return {
        "losses": float(np.abs(losses[1] / losses[0] - 1).max()),
        "probabilities": float(np.abs(probabilities[1] - probabilities[0]).max()),
        "other_predictions": int((predictions[1] != predictions[0]).sum()),
    }


def main() -> None:
    """Write the tables, run the job, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for tables, store, runs and scores")
    parser.add_argument("--accounts", type=int, default=200_000, help="accounts in January")
    parser.add_argument("--transfers", type=int, default=3_000_000, help="transfers of a month")
    parser.add_argument("--seed", type=int, default=0, help="seed of the tables")
    parser.add_argument("--epochs", type=int, default=60, help="epochs, except with defaults")
    parser.add_argument("--runs", default=",".join(TRAININGS), help="trainings")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append a record to")
    options = parser.parse_args()
    folder = options.folder
    size = {name: getattr(options, name) for name in ("accounts", "transfers", "seed")}
    write_months(folder, **size)
    for name in ("bank", "runs", "scores"):
        shutil.rmtree(folder / name, ignore_errors=True)
    made = command(folder, "partition", "partition", *PARTITION, "bank", "--parts", 3)
    print(f"partition: {text(made)}")
    months = [folder / month / "accounts.parquet" for month in MONTHS]
    old, ids = (pq.read_table(month, columns=["account_id"])["account_id"] for month in months)
    is_new = pc.is_null(pc.index_in(ids, old.combine_chunks())).to_numpy()
    print("| run | January | February | new accounts | at the threshold | train | predict |")
    print("|---|---|---|---|---|---|---|", flush=True)
    outcomes: dict[str, Any] = {"partition": made}
    for name in options.runs.split(","):
        outcomes[name] = one = run_job(folder, name, options.epochs, is_new)
        print(
            f"| {name} | {one['test_average_precision']:.3f} "
            f"| {one['february_average_precision']:.3f} "
            f"| {one['february_average_precision_of_new_accounts']:.3f} "
            f"| {one['february_precision']:.2f}, {one['february_recall']:.2f} "
            f"| {text(one['train'])} | {text(one['predict'])} |",
            flush=True,
        )
    if {"fraud", "three workers"} <= outcomes.keys():
        outcomes["difference"] = apart = difference(folder, "fraud", "three workers")
        print(f"three workers: {json.dumps(apart)}")
    case = {**size, "epochs": options.epochs, "threads": 1}
    record = {"benchmark": "bank", "case": case, "unit": "average precision", "outcomes": outcomes}
    append(options.json, [{**record, **provenance(1)}])


def text(used: Mapping[str, float]) -> str:
    """Return seconds of CPU and memory as text."""
    return f"{used['cpu_seconds']:.0f} s, {used['bytes'] / 1e9:.1f} GB"


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    main()
