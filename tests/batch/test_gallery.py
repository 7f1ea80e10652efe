"""The page of a batch, in a real browser."""

from __future__ import annotations

import datetime
import html
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from labrecon.report.gallery import failure_page, write_data, write_page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
in_a_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason="needs chromium, chromium-browser or google-chrome on the PATH"
    ),
]


def scan(name: str, state: str = "done", **told):
    page = {"done": f"scans/{name}/report.html", "failed": f"failed/{name}.html"}.get(state)
    known = {
        "id": 1,
        "name": name,
        "path": f"/data/{name}.h5",
        "state": state,
        "attempts": 1,
        "kind": "",
        "reason": "",
        "trace": "",
        "stage": "",
        "seconds": 2.0,
        "timings": {},
        "finished": None,
        "output": f"scans/{name}",
        "page": page,
        "thumbnail": None,
        "title": "FISTA",
        "status": "converged",
        "iterations": 40,
        "numbers": {},
        "warnings": [],
        "flags": [],
        "stale": "",
    }
    return known | told


def batch(rows, state: str = "running", *, ago: float = 1.0, **told):
    heard = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=ago)
    states = ("done", "failed", "running", "pending", "skipped")
    return {
        "title": "night",
        "instrument": "ct",
        "recipe": {"solver": {"name": "fista"}},
        "state": state,
        "started": heard.isoformat(),
        "updated": heard.isoformat(),
        "counts": {state: sum(row["state"] == state for row in rows) for state in states},
        "seconds_per_scan": 2.4,
        "estimated_end": None,
        "workers": 2,
        "output": "/out/my night",
        "labrecon": "0.1.0",
        "messages": [],
    } | told


MIXED = [
    scan("scan_2", numbers={"χ²": 1.5, "mode": "b"}),
    scan("scan_10", numbers={"χ²": 12.0, "mode": "a"}, flags=["χ² 12 times the batch's median"]),
    scan("scan_1", numbers={"χ²": None}),
    scan("scan_3", numbers={"χ²": 2e-7, "mode": "c"}),
    scan("scan_4", "failed", kind="reader", reason="the file is truncated"),
    scan("scan_5", "running", stage="solve"),
    scan("scan_6", "pending"),
    scan("scan_7", "failed", kind="crash", reason="killed by signal 11"),
]


@pytest.fixture
def show(tmp_path):
    """Write a batch, and what a browser makes of it at a fragment of its address."""

    def shown(rows, fragment="", *, out=tmp_path / "out", **told) -> str:
        write_page(out)
        write_data(out, batch(rows, **told), rows)
        return look(f"{(out / 'index.html').as_uri()}#{fragment}", tmp_path / "profile")

    return shown


def look(address: str, profile: Path, wait: int = 0) -> str:
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", f"--user-data-dir={profile}"]
    command += [f"--virtual-time-budget={wait}"] * bool(wait)
    found = subprocess.run(
        [*command, "--dump-dom", address], capture_output=True, timeout=120, check=True
    )
    # The page's own script holds the same text: it is left out.
    dom = found.stdout.decode()
    return re.sub(r"<script>\s*const ADVICE.*?</script>", "", dom, count=1, flags=re.DOTALL)


def names(dom: str) -> list[str]:
    """Of the scans that are listed, in their order."""
    return [
        html.unescape(name) for name in re.findall(r'<(?:tr|article)[^>]* data-name="([^"]*)"', dom)
    ]


def text_of(dom: str, element: str) -> str:
    found = re.search(rf'<(\w+)[^>]* id="{element}"[^>]*>(.*?)</\1>', dom, re.DOTALL)
    return html.unescape(re.sub("<[^>]*>", "", found[2]))


def opening(dom: str, element: str) -> str:
    return re.search(rf'<\w+[^>]* id="{element}"[^>]*>', dom)[0]


class TestInTheBrowser:
    pytestmark = in_a_browser

    def test_failures_first_then_the_running_then_the_flagged(self, show):
        dom = show(MIXED)
        expected = ["scan_4", "scan_7", "scan_5", "scan_10", "scan_1", "scan_2", "scan_3", "scan_6"]
        assert names(dom) == expected
        box = dom[dom.index('id="failures"') : dom.index('class="scans"')]
        assert dom.index('id="failures"') < dom.index('id="table"')
        assert "hidden" not in opening(dom, "failures")
        for told in ("2 failed", "1 × reader", "1 × crash", "the file is truncated", "signal 11"):
            assert told in box
        assert "copy it anew" in box
        assert 'href="failed/scan_4.html"' in box

    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            ("χ²", ["scan_3", "scan_2", "scan_10"]),
            ("-χ²", ["scan_10", "scan_2", "scan_3"]),
            ("mode", ["scan_10", "scan_2", "scan_3"]),
            ("-name", ["scan_10", "scan_7", "scan_6"]),
            ("name", ["scan_1", "scan_2", "scan_3"]),
        ],
    )
    def test_sorted_by_a_column(self, show, sort, expected):
        """Numbers by size and not by their digits; names as a person counts."""
        dom = show(MIXED, f"sort={sort}")
        assert names(dom)[:3] == expected
        way = "descending" if sort.startswith("-") else "ascending"
        (head,) = re.findall(r"<th[^>]*aria-sort[^>]*>.*?</th>", dom)
        assert f'aria-sort="{way}"' in head
        assert f">{ {'name': 'scan'}.get(sort.lstrip('-'), sort.lstrip('-')) }<" in head

    def test_scans_without_a_number_come_last_in_both_directions(self, show):
        for sort in ("χ²", "-χ²"):
            last = names(show(MIXED, f"sort={sort}"))[3:]
            assert last[0] == "scan_1"
            assert set(last) == {"scan_1", "scan_4", "scan_5", "scan_6", "scan_7"}

    @pytest.mark.parametrize(
        ("fragment", "expected"),
        [
            ("state=failed", {"scan_4", "scan_7"}),
            ("state=failed,pending", {"scan_4", "scan_6", "scan_7"}),
            ("flagged=1", {"scan_10"}),
            ("q=TRUNC", {"scan_4"}),
            ("q=scan_1", {"scan_1", "scan_10"}),
            ("q=scan_1&flagged=1&view=gallery", {"scan_10"}),
            ("state=skipped", set()),
        ],
    )
    def test_filters(self, show, fragment, expected):
        dom = show(MIXED, fragment)
        assert set(names(dom)) == expected
        assert text_of(dom, "found") == f"{len(expected)} of 8 scans"
        assert ("hidden" in opening(dom, "nothing")) == bool(expected)

    def test_pictures_are_loaded_when_they_are_seen(self, show):
        rows = [scan("a", thumbnail="scans/a/thumbnail.png"), scan("b", "failed", reason="why")]
        dom = show(rows, "view=gallery")
        (image,) = re.findall(r"<img[^>]*thumbnail[^>]*>", dom)
        assert 'loading="lazy"' in image
        assert "why" in dom[dom.index('id="gallery"') :]
        assert "hidden" in opening(dom, "table")

    def test_whatever_a_name_or_a_reason_holds_is_shown_as_text(self, show):
        evil = "<script>document.title='broken'</script>"
        rows = [
            scan(
                f"a\"b'c{evil}", numbers={evil: 1.0, "seconds": 3.25}, flags=[evil], warnings=[evil]
            ),
            scan("</script>", "failed", kind=evil, reason=f'"><img src=x onerror=alert(1)>{evil}'),
            scan("line\u2028separator"),
        ]
        dom = show(rows, title=evil, messages=[evil])
        assert set(names(dom)) == {row["name"] for row in rows}
        assert "<script>document" not in dom
        assert "<img src=x" not in dom
        title = html.unescape(re.search("<title>(.*?)</title>", dom, re.DOTALL)[1])
        assert title == f"1 failed · 3/3 · {evil}"

    def test_links_of_odd_names_lead_to_their_pages(self, show, tmp_path):
        odd = ["a b/50% #1?.x", "µ-ñ/日本", "a&b=c+d"]
        dom = show([scan(name) for name in odd])
        hrefs = [html.unescape(h) for h in re.findall(r'<a href="(scans/[^"]*)"', dom)]
        for name in odd:
            (href,) = [h for h in hrefs if unquote(h) == f"scans/{name}/report.html"]
            page = tmp_path / "out" / "scans" / name / "report.html"
            page.parent.mkdir(parents=True)
            page.write_text("<p>the right page</p>")
            address = f"{(tmp_path / 'out').as_uri()}/{href}"
            assert "the right page" in look(address, tmp_path / "profile")

    def test_numbers_that_are_not_finite(self, show):
        rows = [
            scan("a", numbers={"x": float("nan")}),
            scan("b", numbers={"x": float("inf")}),
            scan("c", numbers={"x": "inf", "y": 1e-7}),
            scan("d", numbers={"x": 3.0}),
        ]
        dom = show(rows, "sort=x")
        assert names(dom) == ["d", "b", "c", "a"]
        for told in (">∞<", ">NaN<", ">1.00e−7<"):
            assert told in dom

    def test_header(self, show):
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(
            hours=2, minutes=10, seconds=20
        )
        dom = show(MIXED, estimated_end=end.isoformat(), messages=["the recipe changed"])
        assert text_of(dom, "state") == "running"
        assert "6of 8 scans" in text_of(dom, "counts")
        assert 'aria-valuenow="75"' in opening(dom, "track")
        pace = text_of(dom, "pace")
        assert "2.4 s per scan" in pace
        assert "in 2 h 10 min" in pace
        assert "the recipe changed" in text_of(dom, "messages")
        assert "hidden" in opening(dom, "silent")

    def test_a_running_batch_that_says_nothing_is_suspect(self, show):
        dom = show(MIXED, ago=3600)
        assert "hidden" not in opening(dom, "silent")
        assert text_of(dom, "silent").startswith("Last heard 1 h 00 min ago: interrupted?")

    def test_finished_and_interrupted(self, show):
        dom = show(MIXED[:4], state="finished", ago=3600)
        assert text_of(dom, "state") == "finished"
        assert "hidden" in opening(dom, "silent")
        assert "hidden" in opening(dom, "failures")
        dom = show(MIXED, state="interrupted", ago=3600)
        assert "The same command goes on" in text_of(dom, "silent")

    def test_news_is_shown_while_the_page_is_open(self, show, tmp_path):
        """The data change themselves each time they are loaded."""
        show(MIXED, out=tmp_path / "live")
        data = tmp_path / "live" / "scans.js"
        first = data.read_text()
        later = [*MIXED[:5], scan("scan_5", numbers={"χ²": 7.25}), *MIXED[6:], scan("scan_8")]
        write_data(tmp_path / "live", batch(later, "finished"), later)
        second = data.read_text()
        data.write_text(
            "window.loads = (window.loads || 0) + 1;\n"
            f"if (window.loads < 3) {{ {first} }} else {{ {second} }}\n"
            "document.body.dataset.loads = window.loads;\n"
        )
        page = (tmp_path / "live" / "index.html").as_uri()
        dom = look(f"{page}#state=done&sort=-name", tmp_path / "profile", wait=60_000)
        # Loaded until it is finished, and no more; what the reader chose is kept.
        assert 'data-loads="3"' in dom
        assert text_of(dom, "state") == "finished"
        assert names(dom) == ["scan_10", "scan_8", "scan_5", "scan_3", "scan_2", "scan_1"]
        assert ">7.25<" in dom

    def test_no_data_yet(self, tmp_path):
        write_page(tmp_path)
        dom = look((tmp_path / "index.html").as_uri(), tmp_path / "profile")
        assert "scans.js" in text_of(dom, "about")

    def test_two_thousand_scans(self, show):
        rows = [
            scan(f"night/scan_{i}", numbers={f"n{k}": float(i * k % 97) for k in range(8)})
            for i in range(2000)
        ]
        dom = show(rows, "sort=-n1")
        listed = names(dom)
        assert text_of(dom, "found") == "2000 scans"
        assert listed[0] == "night/scan_96"
        # Few are drawn at first, which is why it is quick: the rest as one scrolls.
        assert 50 <= len(listed) <= 450
        assert text_of(dom, "more").startswith(f"{2000 - len(listed)} more scans")


def test_page_is_self_contained(tmp_path):
    write_page(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r'(?:src|href)="(?!\$\{)', page)
    assert not re.search(r"(https?:)//", page)
    assert "@import" not in page
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page


def test_data_can_not_end_their_script(tmp_path):
    rows = [scan("</script><script>x", reason="\u2028<!--")]
    write_data(tmp_path, batch(rows), rows)
    text = (tmp_path / "scans.js").read_text()
    assert text.startswith("labrecon_batch({")
    assert "<" not in text
    assert "\u2028" not in text


def test_names_that_are_no_unicode(tmp_path):
    """A file system holds bytes; a link is to the very bytes."""
    name = os.fsdecode(b"caf\xe9")
    rows = [scan(name, "failed", reason=f"{name} is damaged")]
    write_data(tmp_path, batch(rows), rows)
    text = (tmp_path / "scans.js").read_text(encoding="utf-8")
    assert "failed/caf%E9.html" in text
    assert "\\udce9" in text
    assert "caf\\udce9" in failure_page(rows[0], batch(rows))


def test_traces_are_left_to_the_page_of_the_scan(tmp_path):
    rows = [scan("a", "failed", trace="Traceback of a fault" * 100)]
    write_data(tmp_path, batch(rows), rows)
    assert "Traceback" not in (tmp_path / "scans.js").read_text()


def test_data_are_replaced_whole(tmp_path):
    for count in (3, 1):
        write_data(tmp_path, batch(MIXED[:count]), MIXED[:count])
        assert (tmp_path / "scans.js").read_text().count('"name": "scan_') == count
    assert [path.name for path in tmp_path.iterdir()] == ["scans.js"]


def test_failure_page():
    row = scan(
        "night/scan 3",
        "failed",
        kind="reader",
        reason="the file <x> is truncated",
        trace="OSError: </pre>",
        stage="read",
        attempts=2,
    )
    page = failure_page(row, batch([row]))
    assert 'href="../../index.html"' in page
    for told in ("the file &lt;x&gt; is truncated", "copy it anew", "OSError: &lt;/pre&gt;"):
        assert told in page
    assert "/data/night/scan 3.h5" in page
    assert "“read”" in page
    command = html.unescape(re.search("<code>(.*?)</code>", page)[1])
    assert command == "labrecon retry '/out/my night' 'night/scan 3'"


@pytest.mark.parametrize("seconds", [None, 2.0])
def test_failure_page_of_a_kind_that_nobody_knows(seconds):
    row = scan("a", "failed", kind="gremlins", reason="", seconds=seconds)
    page = failure_page(row, batch([row]))
    assert "gremlins" in page
    assert "No reason was told" in page
    assert 'href="../index.html"' in page
