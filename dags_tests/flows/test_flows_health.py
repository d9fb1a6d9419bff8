"""The page of a round: its picture shows every round, its table says what the record says and nothing as markup."""

from __future__ import annotations

from base64 import b64decode
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cifer_tasks.records import ArtifactRef, Committed, Evaluation, Exclusion, Measured, RoundResult
from flows.health import health_markdown
from flows.plots import MOST_POINTS, data_uri, rounds_svg, thinned

MODEL = ArtifactRef("model", "ab" * 32, 9)
WHERE = Committed("cd" * 32, 17)
SVG = "{http://www.w3.org/2000/svg}"


def result(number: int, *, accepted: bool = True, reason: str = "", excluded: tuple[Exclusion, ...] = ()) -> RoundResult:
    """A round of two sites."""
    scores = Evaluation(MODEL, (Measured("accuracy", 1 - 0.5 / number), Measured("loss", 1 / number)))
    return RoundResult(number, MODEL, scores, accepted, reason, ("a", "b"), excluded, 1000 + number, WHERE)


class Cells(HTMLParser):
    """The text of each table row, the addresses of images, and every tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.images: list[str] = []
        self.tags: set[str] = set()
        reader = MarkdownIt("commonmark", {"html": True}).enable("table")
        reader.validateLink = lambda url: True  # type: ignore[method-assign]  # Prefect's page shows SVG in an address, which this refuses
        self.feed(reader.render(text))

    def table(self) -> dict[str, str]:
        return {name: value for name, value in self.rows}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
        elif tag == "img":
            self.images.append(dict(attrs)["src"] or "")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and not self.images:
            self.rows[-1][-1] += data.strip("\n")


def test_the_page_says_what_the_round_came_to() -> None:
    """Verdict, scores, sites, who was late and who failed, bytes and block; the picture is the one of these rounds."""
    out = (Exclusion("c", "deadline", "", WHERE), Exclusion("d", "train", "", WHERE))
    results = [result(1), result(2, accepted=False, reason="accuracy fell", excluded=out)]
    page = Cells(health_markdown(results, 4))
    assert page.table() == {
        "round": "2",
        "verdict": "rejected: accuracy fell",
        "scores": "accuracy 0.7500, loss 0.5000",
        "in the sum": "2 of 4 sites",
        "late": "c",
        "left out": "d at train",
        "update bytes": "1,002",
        "block": "17",
    }
    assert page.images == [data_uri(rounds_svg(results, 4))]
    assert b64decode(page.images[0].partition(",")[2]).decode() == rounds_svg(results, 4)


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1))
def test_a_reason_is_text_and_not_markup(reason: str) -> None:
    """Whatever a reason holds is shown as it is, in its own cell, and makes no element of its own."""
    page = Cells(health_markdown([result(1, accepted=False, reason=f"x{reason}x")], 2))
    assert page.table()["verdict"] == " ".join(f"rejected: x{reason}x".split())
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "p", "img"}


def test_the_picture_shows_every_round() -> None:
    """Two lines and two rows of bars with a mark a round; a rejected round is red in each; nothing is loaded, nothing runs."""
    svg = rounds_svg([result(number, accepted=number != 3) for number in range(1, 6)], 2)
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    assert [len(line.attrib["points"].split()) for line in root.iter(f"{SVG}polyline")] == [5, 5]
    bars = [item for item in root.iter(f"{SVG}rect") if "class" in item.attrib]
    assert len(bars) == 2 * 5
    assert sum(item.attrib.get("class") == "n" for item in root.iter()) == 4
    titles = [item.text for item in root.iter(f"{SVG}text") if item.attrib.get("class") == "t"]
    assert titles == ["accuracy: 0.9000", "loss: 0.2000", "sites in the sum: 2 of 2", "update bytes: 1,005"]
    assert {item.tag for item in root.iter()} <= {
        SVG + name for name in ("svg", "style", "rect", "g", "text", "line", "polyline", "circle")
    }


@given(st.integers(min_value=1, max_value=3 * MOST_POINTS))
def test_long_runs_are_thinned_evenly(count: int) -> None:
    """At most so many points, each round once and in order, the first and the last among them, no gap twice as wide as another."""
    found = [item.round for item in thinned([result(number) for number in range(1, count + 1)])]
    assert len(found) == min(count, MOST_POINTS) and found == sorted(set(found))
    assert found[0] == 1 and found[-1] == count
    gaps = {after - before for before, after in pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_run_whose_candidates_were_all_rejected_has_a_page() -> None:
    """Without an accepted model there are no scores, and sites and bytes are shown all the same."""
    bare = RoundResult(1, MODEL, Evaluation(MODEL, ()), False, "worse", ("a",), (), 0, WHERE)
    assert rounds_svg([bare], 2).count('class="t"') == 2
    assert "rejected: worse" in health_markdown([bare], 2)
