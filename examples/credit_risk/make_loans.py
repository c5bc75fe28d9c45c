"""Write a synthetic table of loan applications, and build the package bank/loans from it.

    python examples/credit_risk/make_loans.py

No such borrower exists: every column is drawn from a distribution below, and who defaults is drawn with a probability
that the columns decide. Over the months debts grow, and more people come online, who default more often: what was
learnt on early months fits the late ones less well, as it does in a bank.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

first_month = "2021-01"
months = 36
homes = ("mortgage", "own", "rent")
purposes = ("car", "consolidation", "home", "other", "small business")
channels = ("branch", "broker", "online")

dictionary = {
    "application": "number of the application, in order of time; no model uses it",
    "month": "month of the application, YYYY-MM; decides the split",
    "age": "years; kept to watch how groups are treated, no model uses it",
    "income": "net, a month, in euros; missing where it was not proved",
    "employed": "years with the present employer; missing where there is none",
    "home": " | ".join(homes),
    "purpose": " | ".join(purposes),
    "channel": " | ".join(channels),
    "amount": "of the loan, in euros",
    "term": "of the loan, in months",
    "debt_to_income": "all monthly instalments, this loan's too, in parts of the income",
    "utilisation": "of revolving credit, 0…1",
    "delinquencies": "payments more than 30 days late in the last two years",
    "inquiries": "credit inquiries in the last six months",
    "default": "1 if a payment was more than 90 days late within twelve months, else 0",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write synthetic loan applications, and build a package of them.")
    parser.add_argument("--rows", type=int, default=18000, help="applications in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=2024, help="of the numbers drawn (%(default)s)")
    parser.add_argument("--dest", type=Path, default=Path("data/loans"), metavar="DIR", help="folder (%(default)s)")
    parser.add_argument("--name", default="bank/loans", help="of the package (%(default)s)")
    arguments = parser.parse_args()

    table = applications(arguments.rows, seed=arguments.seed)
    arguments.dest.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.dest / "applications.csv", index=False, lineterminator="\n")
    described = pd.DataFrame(dictionary.items(), columns=["column", "meaning"])
    described.to_csv(arguments.dest / "dictionary.csv", index=False, lineterminator="\n")
    message = f"synthetic: {len(table):,} applications, seed {arguments.seed}, {table['default'].mean():.1%} in default"
    command = ["package", "build", str(arguments.dest), arguments.name, "-m", message]
    return subprocess.run([sys.executable, "-m", "reprokit", *command]).returncode


def applications(rows: int, *, seed: int) -> pd.DataFrame:
    """Return the table, with the columns of `dictionary`, in order of months."""
    rng = np.random.default_rng(seed)
    month = np.sort(rng.integers(0, months, rows))
    late = month / (months - 1)  # 0…1 over the months

    age = np.clip(rng.normal(42, 12, rows), 19, 78).round().astype(int)
    employed = np.minimum(rng.exponential(6, rows), age - 18).round(1)
    income = np.exp(rng.normal(7.75, 0.42, rows) + 0.012 * np.minimum(employed, 20))
    home = rng.choice(3, rows, p=(0.35, 0.2, 0.45))
    purpose = rng.choice(5, rows, p=(0.24, 0.36, 0.16, 0.16, 0.08))
    channel = np.where(rng.random(rows) < 0.15 + 0.45 * late, 2, rng.choice(2, rows, p=(0.6, 0.4)))
    term = rng.choice((12, 24, 36, 48, 60, 72), rows, p=(0.08, 0.16, 0.28, 0.22, 0.16, 0.1))
    amount = np.clip(np.exp(rng.normal(8.9, 0.6, rows)), 1000, 60000)
    others = rng.gamma(2.0, 0.11, rows) * (1 + 0.25 * late)  # instalments of other debts, in parts of the income
    debt_to_income = others + amount / term / income
    utilisation = np.clip(rng.beta(1.6, 2.4, rows) + 0.08 * late, 0, 1)
    delinquencies = rng.poisson(0.12 + 0.5 * utilisation**2)
    inquiries = rng.poisson(0.6 + 0.9 * (channel == 2) + 0.6 * utilisation)

    # What a straight line does not say: debts hurt from a threshold on, and more where little income is left.
    strained = np.maximum(debt_to_income - 0.42, 0)
    odds = (
        -4.15
        + 5.2 * strained
        + 2.2 * utilisation * (income < 2400)
        + 1.1 * np.minimum(delinquencies, 3)
        + 0.22 * np.minimum(inquiries, 6)
        - 0.9 * np.tanh(employed / 4)
        + np.array((-0.25, -0.35, 0.2))[home]
        + np.array((-0.1, 0.15, -0.2, 0.1, 0.65))[purpose]
        + 0.008 * (term - 36)
        + (0.35 + 0.35 * late) * (channel == 2)
        + 0.25 * late
    )
    default = (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(int)

    return pd.DataFrame(
        {
            "application": np.arange(1, rows + 1),
            "month": (pd.Period(first_month, "M") + month).astype(str),
            "age": age,
            "income": missing(income.round(), rng.random(rows) < 0.04),
            "employed": missing(employed, (employed < 0.3) | (rng.random(rows) < 0.02)),
            "home": np.array(homes)[home],
            "purpose": np.array(purposes)[purpose],
            "channel": np.array(channels)[channel],
            "amount": amount.round(-2).astype(int),
            "term": term,
            "debt_to_income": debt_to_income.round(3),
            "utilisation": utilisation.round(3),
            "delinquencies": delinquencies,
            "inquiries": inquiries,
            "default": default,
        }
    )


def missing(values: NDArray[np.float64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(where, np.nan, values)


if __name__ == "__main__":
    sys.exit(main())
