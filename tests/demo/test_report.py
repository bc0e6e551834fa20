"""The report says what the summary says, to people and to programs, and nothing in it can act."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedvlm_secure.audit.report import render, thin, write_report
from fedvlm_secure.audit.summary import Accuracy, RoundSummary, from_json, round_summaries, to_json
from fedvlm_secure.errors import StorageError
from tests.demo.summaries import summary

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202eevil\"' onload=x &amp; =HYPERLINK(1)"


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def test_hostile_text_stays_text_wherever_text_is_free() -> None:
    plain = summary()
    hostile = dataclasses.replace(
        plain,
        data=HOSTILE,
        note=HOSTILE,
        software=HOSTILE,
        policy=dataclasses.replace(plain.policy, name=HOSTILE, base=HOSTILE),
        visibility=tuple(dataclasses.replace(sight, party=HOSTILE, sees=HOSTILE) for sight in plain.visibility),
        unprotected=(HOSTILE,),
        hospitals=tuple(dataclasses.replace(party, fingerprint=HOSTILE) for party in plain.hospitals),
        accuracy=tuple(dataclasses.replace(entry, task=HOSTILE) for entry in plain.accuracy[:1]),
    )
    html = render(hostile)
    page = Page(html)
    assert page.count("script") == 0
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "<script>alert(1)</script>" in page.text, "the text itself is to be read, as text"


def test_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    html = render(summary())
    page = Page(html)
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)
    assert not re.search(r"https?://|@import|url\(", html)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_page_can_be_read_without_seeing_it() -> None:
    page = Page(render(summary()))
    assert ("html", {"lang": "en"}) in page.tags
    assert page.count("h1") == 1
    assert page.count("table") == page.count("caption")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(attributes.get("aria-label") or attributes.get("aria-hidden") == "true" for attributes in drawings)


def test_first_and_last_accuracy_interval_bytes_and_fingerprints_are_shown() -> None:
    text = " ".join(Page(render(summary())).text.split())
    for shown in ("10.0 %", "12.0 %", "5.0 to 25.0", "12 of 100", "2,700", "4,000", "0.675", "33333 44444", "cd" * 32):
        assert shown.replace(" ", " ") in text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(("method", "words"), [("none", "UNPROTECTED"), ("masking", "only their sum was opened")])
def test_protection_is_said_at_the_top(method: str, words: str) -> None:
    plain = summary()
    html = render(dataclasses.replace(plain, policy=dataclasses.replace(plain.policy, protection=method)))
    assert words in html[: html.index("<h2")]
    assert "no differential privacy" in html[: html.index("<h2")]


def test_losses_and_void_rounds_are_shown_by_name() -> None:
    lost = RoundSummary(1, 3, False, ("h-0", "h-2"), ("h-1",), 2672, 4000, 0.4, ())
    void = RoundSummary(2, 8, True, ("h-0",), (), None, None, None, ())
    text = " ".join(Page(render(dataclasses.replace(summary(), rounds=(lost, void)))).text.split())
    assert "h-0, h-2 h-1 3 2,672" in text
    assert "closed without a result" in text


def test_large_cohort_is_drawn_as_one_line_and_listed_whole() -> None:
    page = Page(render(summary(hospitals=40, rounds=60)))
    assert page.count("polyline") == 2
    assert page.text.count("h-39") >= 3


def test_long_run_keeps_first_and_last_round_in_its_table() -> None:
    assert thin(range(51), 11) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    assert thin([0, 1, 2], 11) == [0, 1, 2]
    assert "some rounds are left out" in Page(render(summary(rounds=50))).text
    assert "some rounds are left out" not in Page(render(summary(rounds=10))).text


def test_run_without_a_score_still_has_a_report() -> None:
    assert "Rounds, participation" in render(dataclasses.replace(summary(), accuracy=(), rounds=()))


def test_json_gives_the_summary_back_and_has_shares_beside_counts(tmp_path: Path) -> None:
    made = summary()
    page = write_report(made, tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert page == tmp_path / "report.html"
    assert from_json(text) == made
    assert json.loads(text)["accuracy"][0]["share"] == 0.10
    assert from_json(to_json(made)) == made


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "run": "x"}'])
def test_text_that_is_no_report_is_refused_with_one_error(text: str) -> None:
    with pytest.raises(StorageError, match="REPORT_UNREADABLE"):
        from_json(text)


@pytest.mark.parametrize(
    "change", [{"correct": 101}, {"correct": -1}, {"constrained_correct": 101}, {"total": 0}, {"low": 0.9, "high": 0.1}]
)
def test_accuracy_that_contradicts_itself_cannot_be_made(change: dict[str, float]) -> None:
    good = Accuracy(0, None, "vqa", 1, 100, 0.0, 0.1, 1, True)
    with pytest.raises(ValueError, match="accuracy"):
        dataclasses.replace(good, **change)  # type: ignore[arg-type]


def test_rounds_count_from_one_and_a_void_one_has_no_bytes() -> None:
    closed = [
        {
            "round": 0,
            "attempt": 1,
            "void": False,
            "survivors": ["a"],
            "dropped": ["b"],
            "upload_bytes": 8,
            "plain_bytes": 12,
            "loss": 0.5,
        },
        {"round": 1, "attempt": 0, "void": True, "survivors": []},
    ]
    first, second = round_summaries(closed)
    assert (first.round, first.attempts, first.dropped, first.vector_bytes) == (1, 2, ("b",), 8)
    assert (second.round, second.void, second.vector_bytes, second.loss) == (2, True, None, None)
