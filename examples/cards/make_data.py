"""Writes data/cards.csv: 75 days of payments by 90 cards, some of which are used by a thief for an hour or two.

    python3 examples/cards/make_data.py

Nothing about one payment gives a thief away: amounts, merchants and places are such as other cards have all the time. What does is
what the card did before. Needs no packages; the same seed writes the same file.
"""

import csv
import math
import pathlib
import random
from datetime import datetime, timedelta, timezone

CARDS, DAYS, FRAUDS = 90, 75, 60
PLACES = ["Amsterdam", "Berlin", "Lisbon", "London", "Madrid", "Oslo", "Paris", "Prague", "Rome", "Vienna", "Warsaw", "Zurich"]
MERCHANTS = ["airline", "bakery", "books", "cinema", "clothes", "electronics", "fuel", "furniture", "games", "garden",
             "groceries", "hotel", "jewellery", "pharmacy", "restaurant", "shoes", "sports", "taxi", "toys", "train"]
START = datetime(2025, 9, 1, tzinfo=timezone.utc)

r = random.Random(20250901)


def payments():
    """Time, card, amount, merchant, place, fraud: in no order."""
    usual = {}
    for card in range(CARDS):
        # One card's usual payment is another one's holiday.
        usual[card] = (r.lognormvariate(3.2, 0.8), r.choice(PLACES), r.sample(MERCHANTS, 6), r.uniform(0.25, 1.2))
    for card, (amount, home, merchants, daily) in usual.items():
        time = 0.0
        while True:
            time += r.expovariate(daily)
            if time >= DAYS:
                break
            # Shops are open from 8 to 22.
            at = math.floor(time) + (8 + 14 * r.random()) / 24
            travels = r.random() < 0.04
            place = r.choice(PLACES) if travels else home
            merchant = r.choice(merchants) if r.random() < 0.85 else r.choice(MERCHANTS)
            yield at, card, amount * r.lognormvariate(0, 0.45), merchant, place, False
    for card in r.sample(range(CARDS), FRAUDS):
        amount, home, _, _ = usual[card]
        at = r.uniform(8, DAYS - 1)
        place = r.choice(PLACES)
        for _ in range(r.randint(4, 9)):
            at += r.expovariate(24 * 60 / 12)
            yield at, card, amount * r.lognormvariate(0.9, 0.5), r.choice(MERCHANTS), place, True


def main():
    path = pathlib.Path(__file__).parents[2] / "data" / "cards.csv"
    rows = sorted(payments())
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "card", "time", "amount", "merchant", "place", "fraud"])
        for number, (at, card, amount, merchant, place, fraud) in enumerate(rows, 1):
            time = (START + timedelta(days=at)).strftime("%Y-%m-%dT%H:%M:%SZ")
            writer.writerow([f"p{number:05}", f"c{card:03}", time, f"{amount:.2f}", merchant, place, "yes" if fraud else "no"])


if __name__ == "__main__":
    main()
