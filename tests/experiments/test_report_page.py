"""`experiments/report.py` from the command line, and its page in a real browser without a network."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from knots.store import frame
from tests.reporting.conftest import TASKS
from tests.reporting.outputs import make_outputs
from tests.reporting.test_page import Page

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)"
)

CLICKS = """<script>
document.querySelectorAll(".sortable thead button")[8].click();
location.hash = "#run-{run}";
</script></body>"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_outputs(tmp_path_factory.mktemp("made"))


@pytest.fixture
def outputs(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "outputs")


@pytest.fixture
def page(command: Callable, outputs: Path) -> Path:
    done = command("report", [f"paths.output_dir={outputs}"])
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f"Page: {outputs}/report/report.html\n")
    return outputs / "report" / "report.html"


def browse(page: Path, *options: str) -> tuple[str, str]:
    """What the browser has made of a page, and what it logged about it; no name has an address."""
    place = page.parent / "browser"
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={place}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--log-level=0",
        "--virtual-time-budget=3000",
        *options,
        page.as_uri(),
    ]
    environment = os.environ | {"HOME": str(place)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@needs_browser
def test_the_browser_shows_every_table_and_number_and_asks_nobody(page: Path, outputs: Path):
    shown, console = browse(page, "--dump-dom")
    assert console == ""
    found = Page(shown)
    assert found.tables == Page(page.read_text()).tables
    assert not re.search(r"""(?:src|href|action)=["'](?!#|data:)""", shown)
    assert not re.search(r"url\(|@import", shown)
    assert all(link[1:] in found.ids for link in found.links)
    numbers = frame(outputs)[[f"per_task/{task}/accuracy" for task in TASKS]].to_numpy().ravel()
    assert all(f"{number:.1f}" in found.words for number in numbers)


@needs_browser
def test_a_click_sorts_the_runs_and_a_link_opens_its_run(page: Path, outputs: Path):
    runs = frame(outputs).sort_values("average/accuracy", ascending=False)["run"]
    clicked = page.with_name("clicked.html")
    clicked.write_text(page.read_text().replace("</body>", CLICKS.replace("{run}", runs.iloc[2])))
    shown, console = browse(clicked, "--dump-dom")
    assert console == ""
    order = re.findall(r'<th scope="row"><a href="#run-(\w{12})">', shown)
    assert order == list(runs)
    assert 'aria-sort="descending"' in shown
    assert re.findall(r'<details id="run-(\w+)" class="run" open="">', shown) == [runs.iloc[2]]


@needs_browser
def test_the_browser_draws_the_page(page: Path, tmp_path: Path):
    from PIL import Image

    picture = tmp_path / "page.png"
    browse(page, "--window-size=1200,2000", f"--screenshot={picture}")
    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50


@needs_browser
def test_an_error_on_the_page_would_be_seen(page: Path):
    broken = page.with_name("broken.html")
    broken.write_text(page.read_text().replace("</body>", '<img src="http://example.org/x.png"></body>'))
    assert "CONSOLE" in browse(broken, "--dump-dom")[1]


@pytest.mark.parametrize(
    ("form", "start"), [("markdown", "**mini"), ("latex", r"\begin{table}"), ("csv", "run,")]
)
def test_a_format_goes_to_a_file_and_the_page_may_be_left_out(
    command: Callable, outputs: Path, form: str, start: str
):
    done = command("report", [f"paths.output_dir={outputs}", f"format={form}", "page=false", "sort=joint"])
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(start)
    assert not (outputs / "report").exists()
    again = command("report", [f"paths.output_dir={outputs}", f"format={form}", "sort=joint"])
    assert (again.out, again.err) == (done.out, f"Page: {outputs}/report/report.html\n")


def test_mistakes_and_an_empty_folder_are_said(command: Callable, outputs: Path, tmp_path: Path):
    for override, message in (
        ("format=html", "unknown format 'html'"),
        ("page=3", "page=3; true or false is needed"),
        ("sort=speed", "unknown sort 'speed'"),
    ):
        done = command("report", [f"paths.output_dir={outputs}", override])
        assert done.code == 2
        assert message in done.err
    done = command("report", [f"paths.output_dir={tmp_path}/nowhere", "format=csv"])
    assert (done.code, done.err) == (0, "")
    assert done.out.strip() == f"no finished runs below {tmp_path}/nowhere"
    assert not (tmp_path / "nowhere").exists()
