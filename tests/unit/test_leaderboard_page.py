"""The page: whole without a network, and alive in a real browser where one is installed."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from stored_runs import store

from recbole_tiger.commands.leaderboard import run
from recbole_tiger.leaderboard.page import DRAWN_ROWS, _curves, format_page
from recbole_tiger.leaderboard.table import make_leaderboards, read_runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture()
def boards(tmp_path):
    """Two datasets, one of them under two protocols."""
    rng = np.random.default_rng(0)
    for dataset, more in (("toy", {}), ("toy", {"config": {"mask_seen_items": True}}), ("shop", {"checksum": "00ff"})):
        for model, share in (("TIGER", 0.3), ("SASRec[loss_type=BPR]", 0.5), ("Pop", 0.1)):
            for seed in (1, 2):
                ranks = np.where(rng.random(200) < share, rng.integers(0, 10, 200), -1)
                store(tmp_path / "runs", model.split("[")[0], seed, ranks, label=f"{model}", dataset=dataset, **more)
    return make_leaderboards(read_runs(tmp_path / "runs"))


def without_scripts(page):
    return re.sub(r"<script.*?</script>", "", page, flags=re.S)


def test_the_page_needs_nothing_else_and_says_everything(boards):
    page = format_page(boards)
    assert page == format_page(boards)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", without_scripts(page))
    assert page.count("<section id=") == 3 and page.count("plotly.js v") >= 1
    for words in ("SASRec[loss_type=BPR]", "95% interval", "01234567", "models see what other users did after them"):
        assert words in without_scripts(page), words


def test_the_settings_of_a_row_that_are_not_its_models_defaults_fold(tmp_path):
    own = {"hidden_size": 8, "n_layers": 2, "mask_seen_items": True, "checkpoint_dir": "elsewhere", "lerning_rate": 3}
    store(tmp_path, "SASRec", 1, [0, 1], label="small", config=own)
    other = {"recipe": "quick", "epochs": 10, "d_model": 32, "mask_seen_items": True}
    other |= {"encoder_mask": "block_causal", "cross_position_bias": True}
    store(tmp_path, "TIGER", 1, [0, 1], config=other)
    store(tmp_path, "A model of another's", 1, [0, 1], config={"mask_seen_items": True})
    page = without_scripts(format_page(make_leaderboards(read_runs(tmp_path))))
    [table] = re.findall("<details.*?</details>", page, flags=re.S)
    found = dict(re.findall("<tr><td>(.*?)</td><td>(.*?)</td></tr>", table))
    assert found == {"small": "hidden_size=8", "TIGER": "d_model=32", "A model of another&#39;s": "-"}


def test_names_cannot_break_out_of_the_page(tmp_path):
    store(tmp_path, "A", 1, [0, 1], label="</script><b>x", dataset="</script><i>y")
    store(tmp_path, "A", 1, [0, 1], label="<!--<script>", dataset="<!--<script>")
    page = format_page(make_leaderboards(read_runs(tmp_path)))
    assert "<b>x" not in without_scripts(page) and "<i>y" not in without_scripts(page)
    # Inside a script, too: after "<!--<script>" a browser would take its end for text.
    own = page.replace(get_plotlyjs(), "")
    assert "<!--" not in own and own.count("<script") == own.count("</script>")
    [groups] = re.findall(r'<script type="application/json" id="groups">(.*?)</script>', page)
    assert [group["dataset"] for group in json.loads(groups)] == ["<!--<script>", "</script><i>y"]


def test_many_rows_are_all_in_the_table_and_the_best_in_the_figures(tmp_path):
    rng = np.random.default_rng(1)
    for number in range(DRAWN_ROWS + 4):
        store(tmp_path, f"M{number}", 1, rng.integers(-1, 10, 50))
    page = format_page(make_leaderboards(read_runs(tmp_path)))
    assert f"The best {DRAWN_ROWS} of {DRAWN_ROWS + 4} rows." in page
    assert all(f"<td>M{number}</td>" in page for number in range(DRAWN_ROWS + 4))


def test_published_numbers_have_a_table_of_their_own_on_the_page(tmp_path):
    rng = np.random.default_rng(2)
    for model in ("TIGER", "SASRec"):
        store(tmp_path, model, 1, rng.integers(-1, 10, 50), dataset="amazon-beauty")
        store(tmp_path, model, 1, rng.integers(-1, 10, 50))
    stored = read_runs(tmp_path)
    plain, page = (format_page(make_leaderboards(stored, published=wanted)) for wanted in (False, True))
    assert "Published" not in plain
    [added] = re.findall(r'<div class="table wide"><h3>Published, not measured here.*?</div></div>', page, flags=re.S)
    assert page.replace(added + "\n", "") == plain  # nothing else on the page changes
    assert "masked in the source of the baseline rows" in added and added.count("<tr>") == 10
    assert re.search(r"<td>TIGER</td>(<td[^>]*>0\.\d{4}</td>){4}<td>paper</td>", added)
    # It stands below our own table of that dataset, and of no other.
    beauty, toy = re.findall(r"<section .*?</section>", page, flags=re.S)
    assert "amazon-beauty" in beauty and "Published" not in toy
    assert (
        beauty.index("Test metrics") < beauty.index("Published, not measured here") < beauty.index("plotly-graph-div")
    )


def test_validations_within_an_epoch_have_their_place_on_the_curve(tmp_path):
    history = [
        {"epoch": 0, "step": 10, "epochs": 0.4, "valid": {"ndcg@10": 0.1}},
        {"epoch": 0, "step": 20, "epochs": 0.8, "valid": {"ndcg@10": 0.2}},
        {"epoch": 0, "train_loss": 1.0},
        {"epoch": 1, "train_loss": 0.9, "valid": {"ndcg@10": 0.3}},
    ]
    store(tmp_path, "TIGER", 1, [0, 1], history=history)
    [board] = make_leaderboards(read_runs(tmp_path))
    [curve] = _curves(board, board.rows).plot.data
    assert list(curve.x) == [0.4, 0.8, 2] and list(curve.y) == [0.1, 0.2, 0.3]


def test_the_command_writes_the_page(boards, tmp_path):
    text = run({"runs": str(tmp_path / "runs"), "output": str(tmp_path / "out")})
    assert (tmp_path / "out" / "leaderboard.html").read_text() == format_page(boards)
    assert "leaderboard.html" in text and "SASRec[loss_type=BPR]" in text
    with pytest.raises(ValueError, match="unknown key 'model'"):
        run({"model": "TIGER"})
    with pytest.raises(ValueError, match="no finished run"):
        run({"runs": str(tmp_path / "nothing")})


#: Runs in the page after it has loaded: what a person would click, and what is then to be seen.
PROBE = """
<script>
window.addEventListener("load", () => {
  const seen = {};
  const first = document.querySelector("table");
  const column = name => [...first.tHead.rows[0].cells].findIndex(cell => cell.textContent === name);
  const cells = name => [...first.tBodies[0].rows].map(row => row.cells[column(name)].textContent);
  const click = name => first.tHead.rows[0].cells[column(name)].click();
  const visible = () => [...document.querySelectorAll("section")].filter(s => s.offsetHeight > 0).map(s => s.id);
  const choose = (name, index) => {
    const menu = document.getElementById("filter-" + name);
    menu.selectedIndex = index;
    menu.dispatchEvent(new Event("change"));
  };
  seen.plots = document.querySelectorAll(".js-plotly-plot .main-svg").length;
  seen.bold = first.querySelectorAll("td b").length;
  seen.underlined = first.querySelectorAll("td u").length;
  seen.start = cells("model");
  click("ndcg@10"); seen.down = cells("ndcg@10");
  click("ndcg@10"); seen.up = cells("ndcg@10");
  click("model"); seen.names = cells("model");
  click("gain"); seen.gains = cells("gain");
  seen.all = visible();
  seen.menu = [...document.getElementById("filter-dataset").options].map(option => option.value);
  choose("dataset", seen.menu.indexOf("toy")); seen.toy = visible();
  choose("protocol", 1); seen.one = visible();
  choose("dataset", 0); choose("protocol", 0); seen.again = visible();
  seen.width = window.innerWidth;
  seen.wide = document.documentElement.scrollWidth - window.innerWidth;
  window.parent.postMessage(JSON.stringify(seen), "*");
});
</script>
"""
#: A headless window is never narrower than 500 pixels: a frame in it is as wide as a phone.
PHONE = """<!DOCTYPE html><body><iframe src="page.html" style="width:390px;height:844px;border:0"></iframe><script>
window.addEventListener("message", event => {
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = event.data;
  document.body.append(out);
});
</script></body>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page is not opened in a browser")
def test_in_a_browser_it_loads_sorts_and_filters(boards, tmp_path):
    page, path = tmp_path / "page.html", tmp_path / "phone.html"
    page.write_text(format_page(boards).replace("</head>", PROBE + "</head>", 1), encoding="utf-8")
    path.write_text(PHONE, encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000", "--window-size=800,900", "--dump-dom",
         path.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, flags=re.S)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    board = boards[0]
    assert seen["plots"] >= 9  # three figures in each of three sections
    assert seen["start"] == [row.label for row in board.rows]
    assert seen["bold"] >= 4 and seen["underlined"] >= 4
    down = [float(text.split()[0]) for text in seen["down"]]
    assert down == sorted(down, reverse=True) and len(down) == 3
    assert [float(text.split()[0]) for text in seen["up"]] == down[::-1] and down[0] > down[-1]
    assert seen["names"] == sorted(seen["names"], key=str.lower)
    gains = [float(text.rstrip("%")) for text in seen["gains"]]
    assert gains == sorted(gains, reverse=True) and gains[-1] < 0 < gains[0]
    assert seen["all"] == seen["again"] == ["part-1", "part-2", "part-3"]
    assert set(seen["menu"]) == {"", "toy", "shop"} and len(seen["toy"]) == 2 and len(seen["one"]) == 1
    assert seen["width"] == 390 and seen["wide"] <= 0  # nothing sticks out of a phone's screen
