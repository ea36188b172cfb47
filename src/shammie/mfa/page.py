"""The page of described regions: a map, and each region opened; drawn from records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shammie.report import Block, Details, Figure, Point, Prose, Section, Table, render_page, scatter

if TYPE_CHECKING:
    from shammie.core.run import RunRecord

_OPENED = 24
Record = dict[str, Any]


def describe_page(record: RunRecord) -> str:
    """Draw the page from the records alone."""
    regions = [result for result in record.results if result.get("kind") == "region"]
    directions = [result for result in record.results if result.get("kind") == "direction"]
    facts = [("fit", str(record.config["fit"]).rsplit("/", 1)[-1]), ("regions", str(len(regions)))]
    question = "Which regions do this layer's states fall into, and what varies inside each?"
    section = Section("regions", "Regions", question, "shammie mfa describe", draw_regions(regions, directions))
    return render_page(
        "Regions of a model's states", "Gaussian regions with their own few directions, found without labels.", facts, [section],
        footer="Every region stands in results.jsonl.", eyebrow="shammie mfa describe",
    )  # fmt: skip


def draw_regions(regions: list[Record], directions: list[Record]) -> list[Block]:
    """A map by size and breadth, and the regions one by one."""
    known = [region for region in regions if region["tokens"]]
    if not known:
        return [Prose("None of these regions holds a token.")]
    blocks: list[Block] = [map_of(known)]
    for number, region in enumerate(known[:_OPENED]):
        own = [d for d in directions if d["region"] == region["region"]]
        inner = open_region(region, own)
        blocks += inner if number == 0 else [Details(title(region), inner)]
    return blocks


def map_of(regions: list[Record]) -> Figure:
    """Each region by how many different tokens it holds and how far its states spread."""
    points = [
        Point(
            region["different_tokens"],
            region["breadth"],
            title(region),
            "one token" if _narrow(region) else "many tokens",
        )
        for region in regions
    ]
    drawing = scatter(
        points, x_label="different tokens in the region", y_label="spread along its directions", log_x=True,
        outcomes=["one token", "many tokens"],
    )  # fmt: skip
    note = "A region counts as one token's when more than half of its occurrences are one token. Point at a mark to read it."
    return Figure(drawing, "A map of regions", note)


def open_region(region: Record, directions: list[Record]) -> list[Block]:
    """One region: what it is, its contexts, and the two ends of each direction."""
    held = f"**{title(region)}** holds {region['tokens']:,} tokens, {region['different_tokens']:,} different ones"
    said = f"{held}; most often {', '.join(map(quoted, region['commonest'][:5]))}. Its centroid promotes "
    said += f"{', '.join(map(quoted, region['promoted'][:6]))}; nearest regions {', '.join(map(str, region['neighbours']))}."
    blocks: list[Block] = [Prose(said), Table(["contexts"], [[context] for context in region["contexts"]])]
    if directions:
        rows = [[d["direction"], d["spread"], " … ".join(d["high"][:2]), " … ".join(d["low"][:2])] for d in directions]
        blocks.append(Table(["direction", "spread", "one end", "other end"], rows, "What varies inside the region"))
    return blocks


def title(region: Record) -> str:
    """A region's name from a judge, or its commonest tokens."""
    label = region.get("name") or " ".join(token.rsplit(" (", 1)[0].strip() for token in region["commonest"][:3])
    return f"region {region['region']}: {label}"


def quoted(token: str) -> str:
    """A token as it is shown in running text; marks of the page's own language are taken out."""
    return f"“{token.replace('*', '').replace('`', '').strip()}”"


def _narrow(region: Record) -> bool:
    return (region["commonest_share"] or 0) > 0.5
