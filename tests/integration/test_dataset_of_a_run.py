"""A run whose dataset is not there yet: fetched whole first, compared with the paper, or one clear sentence."""

import hashlib
import io
import json
import re
import zipfile

import numpy as np
import pytest
from catalogue import TINY, write_catalogue
from local_server import send, serving

from recbole_tiger.cli import main
from recbole_tiger.datasets import download, paper_counts
from recbole_tiger.datasets.paper_counts import DatasetCounts
from recbole_tiger.experiment import configuration as settings_module


@pytest.fixture()
def server(monkeypatch, workplace):
    """A server with the toy catalogue as `Amazon_Beauty.zip`, which RecBole's list names for amazon-beauty."""
    source = write_catalogue(workplace / "source", "Amazon_Beauty")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(source.iterdir()):
            archive.write(path, path.name)
    with serving(monkeypatch, download) as server:
        urls = {"amazon-beauty": server.url.replace("Made_Data", "Amazon_Beauty")}
        for module in (download, settings_module):
            monkeypatch.setattr(module, "recbole_urls", lambda: urls)
        server.source, server.zip = source, content.getvalue()
        server.answer = lambda handler, _: send(handler, server.zip)
        yield server


def run(capsys, *more, **settings):
    arguments = {"model": "TIGER", "dataset": "amazon-beauty", "data_path": "data", **TINY, **settings}
    status = main([*(f"--{key}={value}" for key, value in arguments.items()), *more])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_zip_is_fetched_once_and_the_counts_are_held_against_table_2(server, workplace, capsys, monkeypatch):
    status, out, err = run(capsys)
    assert status == 0, err
    folder = workplace / "data" / "amazon-beauty"
    for suffix in ("inter", "item"):
        content = (server.source / f"Amazon_Beauty.{suffix}").read_bytes()
        assert (folder / f"amazon-beauty.{suffix}").read_bytes() == content
        checksum = hashlib.sha256(content).hexdigest()
        assert (folder / f"amazon-beauty.{suffix}.sha256").read_text() == f"{checksum}  amazon-beauty.{suffix}\n"
    assert "amazon-beauty, after filtering, against the paper's Table 2:" in out
    assert "  users: 150, paper 22,363: DIFFERENT\n" in out and "  items: 48, paper 12,101: DIFFERENT\n" in out
    assert "NOT the paper's data" in out
    [result] = (workplace / "saved").glob("TIGER-*/result.json")
    table2 = json.loads(result.read_text())["table2"]
    assert table2["ours"]["users"] == 150 and "users" in table2["different"]
    [log] = (workplace / "log" / "TIGER").glob("*.log")
    assert "users: 150, paper 22,363: DIFFERENT" in log.read_text()
    assert len(server.requests) == 1

    # A second run finds the files; and with the paper's counts it says so. A filter counts as the run sees it.
    rows = (server.source / "Amazon_Beauty.inter").read_text().splitlines()[1:]
    lengths = [sum(row.startswith(f"u{user}\t") for row in rows) for user in range(150)]
    long = [length for length in lengths if length >= 8]
    counts = DatasetCounts(len(long), 48, np.mean(long), np.median(long))
    monkeypatch.setitem(paper_counts.TABLE_2, "amazon-beauty", counts)
    status, out, err = run(capsys, user_inter_num_interval="[8,inf)")
    assert status == 0, err
    assert f"  users: {len(long)}, paper {len(long)}: the same\n" in out and "NOT the paper" not in out
    assert len(server.requests) == 1


def test_other_datasets_are_not_held_against_the_paper(toy, capsys):
    status, out, err = run(capsys, dataset="toy")
    assert status == 0, err
    assert "Table 2" not in out


def test_settings_are_checked_before_anything_is_fetched(server, workplace, capsys):
    status, _, err = run(capsys, beam_size=3)
    assert status == 2 and "beam_size=3" in err
    assert server.requests == [] and not (workplace / "data").exists()


@pytest.mark.parametrize("fault", ["404", "web page", "nobody there"])
def test_without_the_data_one_sentence_says_what_to_put_where(server, workplace, capsys, fault):
    if fault == "nobody there":
        server.httpd.shutdown()
        server.httpd.server_close()
    content = b"<!doctype html>" if fault == "web page" else b"gone"
    server.answer = lambda handler, _: send(handler, content, status=404 if fault == "404" else 200)
    status, out, err = run(capsys)
    assert status == 2 and out == ""
    assert re.fullmatch("error: The dataset 'amazon-beauty' could not be downloaded from http://.*\n", err), err
    folder = workplace / "data" / "amazon-beauty"
    assert f"put amazon-beauty.inter and amazon-beauty.item into {folder}" in err
    assert not folder.exists() and not (workplace / "saved").exists()


def test_an_empty_folder_is_no_obstacle_and_another_one_is_not_touched(server, workplace, capsys):
    folder = workplace / "data" / "amazon-beauty"
    folder.mkdir(parents=True)
    (folder / "Amazon_Beauty.inter").write_text("mine")
    status, _, err = run(capsys)
    assert status == 2 and "has no file 'amazon-beauty.inter'" in err and server.requests == []
    (folder / "Amazon_Beauty.inter").unlink()
    status, _, err = run(capsys)
    assert status == 0, err
    assert (folder / "amazon-beauty.item").is_file()
