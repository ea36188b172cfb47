"""A page with every block and every figure, from made-up numbers: what the browser test opens and people look at."""

import math
import random

from shammie.report import (
    Details,
    Figure,
    Number,
    Numbers,
    Point,
    Prose,
    Section,
    Table,
    TextPair,
    heat_map,
    interval_bars,
    line_chart,
    render_page,
    scatter,
    token_strip,
)

TOKENS = ["<|im_start|>", "The", " capital", " of", " France", " is", " the", " city", " of", "\n"]
ODD = [" Paris", "\n", "<|im_start|>", '"', "عاصمة", " باريس", "a" * 40, "", "  ", "\t", "é", "日本", "&amp;", "<b>"]


def lens():
    draw = random.Random(3)
    layers = list(range(30, 0, -1))
    values, words = [], []
    for layer in layers:
        row, text = [], []
        for j in range(len(TOKENS)):
            certainty = 1 / (1 + math.exp(-(layer - 18 - 3 * math.sin(j)) / 2.5)) * (0.95 if j % 3 else 0.4)
            row.append(min(1.0, max(0.0, certainty + draw.gauss(0, 0.03))))
            text.append(" Paris" if j in (5, 7) and layer > 17 else ODD[draw.randrange(len(ODD))])
        values.append(row)
        words.append(text)
    values[4][2] = None
    return heat_map(
        values,
        [str(layer) for layer in layers],
        TOKENS,
        cell_text=words,
        limits=(0.0, 1.0),
        row_title="layer",
        column_title="token read so far",
        value_label="probability of the top token",
        highlight=[(i, 5) for i in range(13)],
        highlight_label="the answer leads",
    )


def patching(columns=10):
    draw = random.Random(5)
    values = []
    for layer in range(29, -1, -1):
        early, late = 1 / (1 + math.exp((layer - 17) / 2)), 1 / (1 + math.exp((17 - layer) / 2))
        row = [draw.gauss(0, 0.03) for _ in range(columns)]
        row[4] += early * 0.95
        row[-1] += late * 0.9
        row[6] -= 0.4 * math.exp(-((layer - 15) ** 2) / 12)
        values.append(row)
    names = [TOKENS[j % len(TOKENS)] for j in range(columns)]
    return heat_map(
        values,
        [str(layer) for layer in range(29, -1, -1)],
        names,
        scale="diverging",
        limits=(-1.0, 1.0),
        row_title="layer",
        column_title="position",
        value_label="share of the answer carried over",
    )


def bars():
    return interval_bars(
        [
            ("Capital of a country", 0.81, 0.74, 0.86, 195, Number("shuffled countries", 0.03, 0.01, 0.07, 195)),
            ("Country of a large city", 0.62, 0.55, 0.69, 180, Number("shuffled countries", 0.05, 0.03, 0.1, 180)),
            ("Country of a small city, named in another language", 0.21, 0.15, 0.28, 160),
            ("A single fact", 0.5, None, None, 1),
        ],
        value_label="share answered correctly",
        reference=0.25,
    )


def curves(count=3):
    names = ["Paris", "Tokyo", "Nairobi", "Lima", "Oslo", "Hanoi", "Quito", "random direction"][:count]
    series = {}
    for k, name in enumerate(names):
        samples = []
        for layer in range(31):
            y = 1 / (1 + math.exp(-(layer - 14 - 2 * k) / 2)) * (1 - 0.07 * k)
            samples.append((layer, y, max(0, y - 0.06), min(1, y + 0.06)))
        series[name] = samples
    series["control: wrong entity"] = [(layer, 0.05 + 0.002 * layer, 0.01, 0.12) for layer in range(31)]
    return line_chart(
        series,
        x_label="layer",
        y_label="probability of the answer",
        y_limits=(0.0, 1.0),
        controls=["control: wrong entity"],
    )


def steering():
    samples = [(10**e, -8 + 3 * math.log10(10**e), -8.6 + 3 * e, -7.2 + 3 * e) for e in (-1, -0.5, 0, 0.5, 1, 1.5, 2)]
    return line_chart({"steered": samples}, x_label="strength (× norm)", y_label="log-probability", log_x=True)


def cities():
    draw = random.Random(9)
    points = []
    for k in range(160):
        population = 10 ** draw.uniform(4.2, 7.4)
        right = draw.random() < 1 / (1 + math.exp(-(math.log10(population) - 6) * 2))
        y = (1 if right else 0) + draw.uniform(-0.06, 0.06)
        points.append(Point(population, y, f"City {k}", "right" if right else "wrong"))
    trend = [
        (10**e, p := 1 / (1 + math.exp(-(e - 6) * 2)), max(0, p - 0.09), min(1, p + 0.09))
        for e in (4.5, 5, 5.5, 6, 6.5, 7)
    ]
    return scatter(
        points,
        x_label="population",
        y_label="answered correctly",
        log_x=True,
        trend=trend,
        trend_label="share in a bin",
        outcomes=["right", "wrong"],
        annotate={"City 3", "City 12", "City 40", "City 41"},
    )


def strip():
    text = [
        "<|im_start|>",
        "user",
        "\n",
        "What",
        " is",
        " the",
        " capital",
        " of",
        " France",
        "?",
        "\n",
        "عاصمة",
        " fin",
    ]
    draw = random.Random(1)
    return token_strip(text, [None, *(draw.uniform(-1, 1) for _ in text[1:])], scale="diverging", value_label="effect")


def sections():
    return [
        Section(
            "model",
            "Who the model is",
            "What is inside the file, and does the toolkit read it as transformers does?",
            "shammie doctor smollm2-135m",
            [
                Prose(
                    "SmolLM2 has **135 million** parameters in 30 layers. Each token is a vector of 576 numbers, "
                    "to which every layer adds.\n\nThe identities below recompute each layer from `mlp_in`."
                ),
                Table(
                    ["identity", "site", "largest difference", "bound", "holds"],
                    [
                        ["residual = embedding + sum of outputs", "residual(30)", 3.1e-6, 1e-4, True],
                        ["neurons · W_out = mlp_out", "mlp_out(12)", 0.00042, 1e-3, True],
                        ["unembedding of the last state = logits", "logits", 0.0, 1e-4, True],
                    ],
                    "What `doctor` proved on these weights",
                ),
            ],
        ),
        Section(
            "facts",
            "What it knows",
            "How many capitals and cities can it place, and does fame decide?",
            "shammie tour --only facts",
            [
                Numbers(
                    [
                        ("Capitals named", 0.81, 0.74, 0.86, 195, Number("shuffled countries", 0.03, 0.01, 0.07, 195)),
                        ("Cities placed", 0.48, 0.41, 0.55, 180, Number("always the largest", 0.11, 0.07, 0.17, 180)),
                        ("Log-odds per decade", 2.13, 1.6, 2.71, 180, Number("shuffled", -0.04, -0.5, 0.41, 180)),
                        ("Facts asked", 375, None, None, None),
                    ]
                ),
                Figure(bars(), "It names most capitals, and few small cities", "Dots are shares with 95 % intervals."),
                Figure(cities(), "Fame decides: accuracy rises with population", "Each mark is one city."),
                Details("All figures", [Table(["country", "n", "share"], [["Peru", 12000, 0.5], ["Chad", 3, None]])]),
            ],
        ),
        Section(
            "lens",
            "How an answer forms",
            "At which layer does the answer first lead?",
            "shammie tour --only lens --full",
            [
                Figure(lens(), "The capital appears at layer 18", "Each cell reads the state through the unembedding."),
                Figure(curves(), "Larger cities are settled earlier"),
                Figure(curves(7), "Eight series at once"),
            ],
        ),
        Section(
            "patching",
            "Where it is decided",
            "Which states carry the entity, and can the answer be steered?",
            "shammie tour --only patching",
            [
                Figure(patching(), "The entity moves to the last token at layer 17"),
                Figure(patching(24), "The same with a longer prompt"),
                Figure(steering(), "Stronger pushes change the answer"),
                TextPair(
                    "The capital of France is Paris. It is known for the Louvre.",
                    "The capital of France is Rome. It is known for the Colosseum.",
                    "untouched",
                    "steered at layer 12",
                    prompt="What is the capital of France?",
                ),
                Figure(strip(), "Which tokens the answer rests on"),
            ],
        ),
    ]


def page():
    return render_page(
        "Inside SmolLM2-135M",
        "A tour of one small language model: what it knows, how an answer forms in it, and where it can be changed.",
        [
            ("model", "SmolLM2-135M-Instruct"),
            ("settings", "reduced; `--full` for all"),
            ("time", "6 min 12 s on two cores"),
            ("command", "`shammie tour`"),
        ],
        sections(),
        "Drawn from `results.jsonl`. Intervals are at 95 %.",
        eyebrow="Shammie tour",
    )


RUN = {
    "command": 'shammie ember erase --model smollm2-135m --concept "Harry Potter" --limit 40',
    "config": {
        "model": "smollm2-135m",
        "concept": "Harry Potter",
        "rank": 16,
        "layers": [3, 4, 5],
        "seed": 0,
        "dtype": None,
    },
    "inputs": {"data": {"file": "concepts.jsonl", "sha256": "9f86d081884c7d659a2feaa0c55ad015"}},
    "versions": {"shammie": "0.1.0", "torch": "2.13.0", "transformers": "5.1.0", "python": "3.11.7"},
    "status": "complete",
    "results": [
        *(
            {
                "kind": "efficacy",
                "concept": name,
                "accuracy": {"value": v, "low": v - 0.08, "high": v + 0.09, "n": 120},
                "accuracy_control": {"value": 0.7, "low": 0.62, "high": 0.77, "n": 120},
            }
            for name, v in (("Harry Potter", 0.2), ("Star Wars", 0.31), ("the Bible", 0.44))
        ),
        *(
            {"kind": "answer", "item": i, "log_probability": -0.1 * i, "right": i % 3 == 0, "text": f"It is {i}."}
            for i in range(80)
        ),
    ],
}
