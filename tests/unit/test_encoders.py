"""Sentences to embeddings: a real sentence encoder, TF-IDF with SVD, files made elsewhere, a hub out of reach."""

import json
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_tiger.cache import content_key
from recbole_tiger.content import encoders
from recbole_tiger.content.encoders import build_encoder
from recbole_tiger.content.encoders import hub as hub_module
from recbole_tiger.content.encoders.hub import FoundModel, find_model
from recbole_tiger.content.encoders.precomputed import read_embeddings
from recbole_tiger.content.encoders.sentence_transformer import SentenceTransformerEncoder, _in_parts
from recbole_tiger.errors import HubUnreachableError

WORDS = "red blue green lipstick polish shampoo mask oil cream brush nail hair skin face eye".split()


SETTINGS = {"model": "none", "file": None, "dim": None, "device": "cpu", "random_state": 0}


def encode(sentences, item_ids=None, encoder="tfidf_svd", **settings):
    item_ids = item_ids or [f"i{n}" for n in range(len(sentences))]
    return build_encoder(encoder, **{**SETTINGS, "batch_size": 8, **settings}).encode(sentences, item_ids)


def fingerprint(encoder="tfidf_svd", **settings):
    return build_encoder(encoder, **{**SETTINGS, "device": None, **settings}).fingerprint()


def catalogue(n, seed=0):
    rng = np.random.default_rng(seed)
    return ["Title: " + " ".join(rng.choice(WORDS, 4)) + "." for _ in range(n)]


# -------------------------------------------------------------------------------------- sentence_transformers


@pytest.mark.parametrize("model", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_minilm_of_the_offline_extra_knows_what_is_alike(model, unreachable_hub):
    sentences = [
        "A red lipstick.",
        "A gearbox for a diesel truck, with a long description of its parts.",
        "Lip colour",
    ]
    embeddings = encode(sentences, encoder="sentence_transformers", model=model, batch_size=2)
    assert embeddings.shape == (3, 384) and embeddings.dtype == np.float32
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[0, 2] > 0.6 and cosine[0, 1] < 0.3 and cosine[1, 2] < 0.3
    # Batches are sorted by length; the rows must come back in the order asked for.
    backwards = encode(sentences[::-1], encoder="sentence_transformers", model=model)
    assert np.allclose(backwards[::-1], embeddings, atol=1e-5)


def test_model_folder_and_hub_cache(tmp_path, monkeypatch, unreachable_hub):
    """The same weights as a folder and as a snapshot of the hub: one vector, and each its own fingerprint."""
    offline = find_model("all-MiniLM-L6-v2").folder
    folder = tmp_path / "my model"
    folder.symlink_to(offline)
    snapshot = tmp_path / "hub" / "models--org--kept" / "snapshots" / "0123abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(offline)
    (tmp_path / "hub" / "models--org--kept" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--kept" / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    wanted = encode(["Lip colour"], encoder="sentence_transformers", model="all-MiniLM-L6-v2")
    for model in (str(folder), "org/kept"):
        assert np.array_equal(encode(["Lip colour"], encoder="sentence_transformers", model=model), wanted)
    assert find_model("org/kept") == FoundModel("org/kept", snapshot, "0123abc")
    prints = {
        model: fingerprint(encoder="sentence_transformers", model=model)["model"]
        for model in ("all-MiniLM-L6-v2", str(folder), "org/kept")
    }
    assert prints["all-MiniLM-L6-v2"] == prints[str(folder)] == content_key(offline)
    assert prints["org/kept"] == ["org/kept", "0123abc"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "neither a folder nor the name"),
        ("./nowhere", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("a/b/c", "no such folder"),
        ("two words", "no such folder"),
    ],
)
def test_names_that_cannot_be_models(model, message):
    with pytest.raises(ValueError, match=rf"content_model=.*{message}.*tfidf_svd"):
        encode(["x"], encoder="sentence_transformers", model=model)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(ValueError, match=r"content_model=.*a folder without a model"):
        find_model(str(tmp_path))
    (tmp_path / "modules.json").write_text("broken")
    with pytest.raises(ValueError, match=r"content_model=.*cannot be loaded.*tfidf_svd"):
        encode(["x"], encoder="sentence_transformers", model=str(tmp_path))


def test_device_and_batch_size_are_checked():
    for device in ("cudda", "gpu"):
        with pytest.raises(ValueError, match=f"device='{device}'"):
            encode(["x"], encoder="sentence_transformers", model="all-MiniLM-L6-v2", device=device)
    with pytest.raises(ValueError, match="content_batch_size=0"):
        encode(["x"], encoder="sentence_transformers", model="all-MiniLM-L6-v2", batch_size=0)


# -------------------------------------------------------------------------------------------------------- hub


@pytest.fixture
def unreachable_hub(monkeypatch):
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return port


@pytest.fixture
def hub(monkeypatch, unreachable_hub):
    """A hub that answers as asked."""
    answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = answers.get(self.path, (404, "{}"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield answers
    server.shutdown()
    server.server_close()


def assert_names_the_ways_out(error):
    assert isinstance(error, ConnectionError) and isinstance(error, ValueError)
    for way in (
        "[offline]",
        "content_model=all-MiniLM-L6-v2",
        "folder",
        "tfidf_svd",
        "precomputed",
        "content_file",
    ):
        assert way in str(error)


@pytest.mark.parametrize("call", [encode, fingerprint])
def test_closed_port_is_reported_in_time_with_the_ways_out(unreachable_hub, call):
    arguments = (
        [["x"]] if call is encode else [],
        {"encoder": "sentence_transformers", "model": "nobody/has-this"},
    )
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(call, *arguments[0], **arguments[1])
        with pytest.raises(HubUnreachableError, match=rf"'nobody/has-this'.*{unreachable_hub}") as caught:
            asked.result(timeout=15)  # what a user is promised; the library's own retries take 83 seconds
    assert_names_the_ways_out(caught.value)


def test_a_hub_that_takes_the_call_and_never_answers(monkeypatch, unreachable_hub):
    monkeypatch.setattr(hub_module, "_PROBE_SECONDS", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(HubUnreachableError, match="timed out|did not answer") as caught:
            find_model("nobody/has-this")
    assert_names_the_ways_out(caught.value)


def test_a_name_server_that_never_answers(monkeypatch, unreachable_hub):
    never = threading.Event()
    monkeypatch.setattr(hub_module, "_PROBE_SECONDS", 0.1)
    monkeypatch.setattr(hub_module.urllib.request, "urlopen", lambda *_, **__: never.wait(60))
    with pytest.raises(HubUnreachableError, match="did not answer within"):
        find_model("nobody/has-this")
    never.set()


def test_offline_mode_is_respected(monkeypatch, hub):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub["/api/models/org/model"] = (200, json.dumps({"sha": "abc"}))
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE"):
        find_model("org/model")


def test_what_the_hub_says(hub):
    hub["/api/models/org/model"] = (200, json.dumps({"sha": "abc"}))
    hub["/api/models/sentence-transformers/short"] = (200, json.dumps({"sha": "def"}))
    hub["/api/models/plain"] = (200, json.dumps({"sha": "123"}))
    hub["/api/models/org/private"] = (401, "{}")
    hub["/api/models/org/broken"] = (503, "{}")
    hub["/api/models/org/portal"] = (200, "<html>please log in to this network</html>")
    assert find_model("org/model") == FoundModel("org/model", None, "abc")
    assert find_model("short").name == "sentence-transformers/short"
    assert find_model("plain").name == "plain"
    assert fingerprint(encoder="sentence_transformers", model="org/model")["model"] == ["org/model", "abc"]
    for model in ("org/unknown", "org/private"):
        with pytest.raises(ValueError, match=r"no model of this name") as caught:
            find_model(model)
        assert not isinstance(caught.value, HubUnreachableError)
    for model in ("org/broken", "org/portal"):
        with pytest.raises(HubUnreachableError):
            find_model(model)


def test_a_download_that_broke_off_asks_the_hub_again(tmp_path, monkeypatch, hub):
    repository = tmp_path / "models--org--half"
    snapshot = repository / "snapshots" / "0123abc"
    shutil.copytree(
        find_model("all-MiniLM-L6-v2").folder,
        snapshot,
        ignore=shutil.ignore_patterns("*.safetensors", "*.md"),
    )
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be loaded") as caught:  # the hub no longer has it
        encode(["x"], encoder="sentence_transformers", model="org/half")
    assert not isinstance(caught.value, HubUnreachableError)
    hub["/api/models/org/half"] = (503, "")
    with pytest.raises(HubUnreachableError):
        encode(["x"], encoder="sentence_transformers", model="org/half")


# -------------------------------------------------------------------------------------------------- tfidf_svd


def test_tfidf_svd_is_scikit_learns():
    sentences = catalogue(60)
    matrix = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit_transform(sentences)
    wanted = TruncatedSVD(10, random_state=3).fit_transform(matrix)
    got = encode(sentences, dim=10, random_state=3)
    assert got.dtype == np.float32 and got.shape == (60, 10)
    assert np.allclose(got * np.sign((got * wanted).sum(axis=0)), wanted, atol=1e-5)  # signs are arbitrary


def test_tfidf_svd_keeps_all_inner_products_at_full_rank():
    sentences = catalogue(30, seed=1)
    matrix = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2).fit_transform(sentences)
    got = encode(sentences, dim=500)
    assert got.shape[1] == np.linalg.matrix_rank(matrix.toarray())
    assert np.allclose(got @ got.T, (matrix @ matrix.T).toarray(), atol=1e-5)


def test_tfidf_svd_is_deterministic():
    sentences = catalogue(200, seed=2)
    assert np.array_equal(encode(sentences, dim=8), encode(sentences, dim=8))


@pytest.mark.parametrize(
    ("sentences", "components"),
    [
        (["one item"], 1),
        (["same text"] * 50, 1),
        (["a b", "c d"], 1),  # single letters are no words: see below for the error
        (["alpha", "beta", "gamma"], 3),
        (["alpha alpha", "alpha"], 1),
        ([*["red lipstick"] * 20, *["blue shampoo"] * 20], 2),
    ],
)
def test_tfidf_svd_of_small_and_repetitive_catalogues(sentences, components, caplog):
    if sentences[0] == "a b":
        with pytest.raises(ValueError, match=r"content_encoder=tfidf_svd finds no words.*content_fields"):
            encode(sentences)
        return
    with caplog.at_level("INFO"):
        got = encode(sentences)
    assert got.shape == (len(sentences), components) and np.isfinite(got).all()
    assert np.linalg.norm(got, axis=1).min() > 0.5
    assert f"content_dim=128: the text of {len(sentences)} items" in caplog.text
    assert f"gives {components} components" in caplog.text


@pytest.mark.parametrize("dim", [0, -1, 2.5, "8", True])
def test_dim_is_checked(dim):
    with pytest.raises(ValueError, match="content_dim="):
        encode(["x y"], dim=dim)
    with pytest.raises(ValueError, match="content_dim="):
        fingerprint(dim=dim)


# ------------------------------------------------------------------------------------------------ precomputed

IDS = ["a", "b", "c"]
VECTORS = np.arange(12, dtype=np.float64).reshape(3, 4) + 0.25


def write(folder, form, ids=IDS, vectors=VECTORS):
    if form == "npz":
        np.savez(folder / "e.npz", item_id=np.array(ids), embedding=vectors)
        return folder / "e.npz"
    if form == "lists":
        pd.DataFrame({"item_id": ids, "embedding": [list(v) for v in vectors]}).to_parquet(folder / "l.parquet")
        return folder / "l.parquet"
    if form == "columns":
        frame = pd.DataFrame(np.asarray(vectors), columns=[f"d{n}" for n in range(np.shape(vectors)[1])])
        frame.insert(2, "item_id", ids)
        frame.to_parquet(folder / "c.parquet")
        return folder / "c.parquet"
    if form == "structured":
        array = np.zeros(len(ids), dtype=[("item_id", "U9"), ("embedding", "f4", np.shape(vectors)[1:])])
        array["item_id"], array["embedding"] = ids, vectors
        np.save(folder / "s.npy", array)
        return folder / "s.npy"
    np.save(folder / "e.npy", vectors)
    return folder / "e.npy"


FORMS = ["npz", "lists", "columns", "structured"]


@pytest.mark.parametrize("form", FORMS)
def test_embeddings_in_the_order_asked_for(tmp_path, form):
    file = str(write(tmp_path, form))
    got = encode(["", ""], ["c", "a"], encoder="precomputed", file=file)
    assert got.dtype == np.float32 and np.array_equal(got, VECTORS[[2, 0]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint16])
def test_number_types_and_number_ids(tmp_path, dtype):
    vectors = np.arange(6).reshape(3, 2).astype(dtype)
    for ids in (np.array([10, 2, 33]), np.array(["10", "2", "33"]), np.array([b"10", b"2", b"33"])):
        file = write(tmp_path, "npz", ids, vectors)
        assert np.array_equal(read_embeddings(file, ["33", "10"]), vectors[[2, 0]])


def test_npy_has_the_order_of_the_item_file(tmp_path):
    file = write(tmp_path, "npy")
    got = encode(["", ""], ["c", "a"], encoder="precomputed", file=str(file), item_file_ids=IDS)
    assert np.array_equal(got, VECTORS[[2, 0]])
    with pytest.raises(ValueError, match=r"content_file=.*3 rows, the item file 4"):
        read_embeddings(file, ["a"], [*IDS, "d"])
    with pytest.raises(ValueError, match=r"content_file=.*holds no item ids.*write a \.npz"):
        read_embeddings(file, IDS)


@pytest.mark.parametrize("form", FORMS)
def test_missing_items_are_counted_with_examples(tmp_path, form):
    file = write(tmp_path, form)
    with pytest.raises(ValueError, match=r"content_file=.*lacks 4 of 6 items \(such as w, x, y\)"):
        read_embeddings(file, ["a", "w", "x", "y", "z", "c"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity(tmp_path, form, value):
    vectors = VECTORS.copy()
    vectors[1, 2] = value
    file = write(tmp_path, form, vectors=vectors)
    with pytest.raises(ValueError, match=r"content_file=.*NaN or infinite values for 1 of 3 items \(such as b\)"):
        read_embeddings(file, IDS)
    assert len(read_embeddings(file, ["a", "c"])) == 2  # not asked for, not in the way


def test_too_large_for_single_precision(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinite"):
        read_embeddings(write(tmp_path, "npz", vectors=VECTORS * 1e300), IDS)


@pytest.mark.parametrize("form", FORMS)
def test_items_twice(tmp_path, form):
    file = write(tmp_path, form, ids=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"content_file=.*1 items more than once \(such as a\)"):
        read_embeddings(file, ["b"])


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (IDS, VECTORS[:, 0], r"shape \[3\]: there must be two axes"),
        (IDS, VECTORS[None], r"shape \[1, 3, 4\]: there must be two axes"),
        (IDS, VECTORS[:, :0], r"shape \[3, 0\]"),
        (IDS, VECTORS[:2], r"3 item ids for 2 embeddings"),
        ([IDS], VECTORS, r"item ids of shape \[1, 3\]"),
        (IDS, VECTORS.astype(str), r"of type <U.*must be numbers"),
        (IDS, VECTORS + 1j, r"of type complex128: they must be numbers"),
        (IDS, VECTORS > 1, r"of type bool: they must be numbers"),
        ([1.5, 2.5, 3.5], VECTORS, r"item ids of type float64"),
        (np.array(IDS, dtype=object), VECTORS, r"plain arrays, the ids as np.array\(ids, dtype=str\)"),
    ],
)
def test_wrong_shapes_and_types(tmp_path, ids, vectors, message):
    file = write(tmp_path, "npz", ids, vectors)
    with pytest.raises(ValueError, match=rf"content_file=.*{message}") as caught:
        read_embeddings(file, IDS)
    assert str(file) in str(caught.value)


def test_files_with_other_arrays_and_columns(tmp_path):
    np.savez(tmp_path / "x.npz", ids=np.array(IDS), vectors=VECTORS)
    pd.DataFrame({"asin": IDS}).to_parquet(tmp_path / "x.parquet")
    pd.DataFrame({"item_id": IDS, "title": IDS, "x": [1, 2, 3]}).to_parquet(tmp_path / "t.parquet")
    pd.DataFrame({"item_id": IDS}).to_parquet(tmp_path / "i.parquet")
    pd.DataFrame({"item_id": IDS, "embedding": [[1.0], [1.0, 2.0], [1.0]]}).to_parquet(tmp_path / "r.parquet")
    for name, message in {
        "x.npz": r"must hold the arrays item_id and embedding, but holds ids, vectors",
        "x.parquet": r"must have a column item_id, but has asin",
        "t.parquet": r"neither a column embedding nor number columns alone \(title",
        "i.parquet": r"shape \[3, 0\]",
        "r.parquet": r"not all of one length \(\[1\], \[2\]\)",
    }.items():
        with pytest.raises(ValueError, match=rf"content_file=.*{message}"):
            read_embeddings(tmp_path / name, IDS)


def test_no_file_other_file_damaged_file(tmp_path):
    for call in (
        lambda file: read_embeddings(file, IDS),
        lambda f: fingerprint(encoder="precomputed", file=f),
    ):
        with pytest.raises(ValueError, match="content_encoder=precomputed needs content_file"):
            call(None)
        with pytest.raises(ValueError, match=r"content_file='none\.npz': there is no such file"):
            call("none.npz")
        (tmp_path / "e.csv").write_text("a,1\n")
        with pytest.raises(ValueError, match=r"content_file=.*is not a \.npz, \.parquet or \.npy file"):
            call(str(tmp_path / "e.csv"))
    for form in (*FORMS, "npy"):
        file = write(tmp_path, form)
        whole = file.read_bytes()
        for broken in (whole[: len(whole) // 2], b"", b"nonsense"):
            file.write_bytes(broken)
            with pytest.raises(ValueError, match="content_file="):
                read_embeddings(file, IDS, IDS)


# ------------------------------------------------------------------------------------------- both and neither


def test_unknown_encoder_no_items_and_mismatch():
    for call in (lambda: encode(["x"], encoder="word2vec"), lambda: fingerprint(encoder="word2vec")):
        with pytest.raises(ValueError, match=r"content_encoder='word2vec'.*tfidf_svd"):
            call()
    with pytest.raises(ValueError, match="no items"):
        encode([])
    with pytest.raises(ValueError, match="1 sentences for 2 items"):
        encode(["x"], ["a", "b"])


def test_fingerprints_hold_what_matters_and_nothing_else(tmp_path):
    file = str(write(tmp_path, "npz"))
    same = fingerprint(encoder="precomputed", file=file)
    assert same == fingerprint(encoder="precomputed", file=file, dim=7, random_state=1, model="x")
    moved = shutil.copy(file, tmp_path / "moved.npz")
    assert same == fingerprint(encoder="precomputed", file=moved)
    write(tmp_path, "npz", vectors=VECTORS + 1)
    assert same != fingerprint(encoder="precomputed", file=file)
    rows = str(write(tmp_path, "npy"))
    assert fingerprint(encoder="precomputed", file=rows, item_file_ids=["a", "b"]) != fingerprint(
        encoder="precomputed", file=rows, item_file_ids=["b", "a"]
    )
    assert fingerprint(model="x", file="y") == fingerprint()
    assert fingerprint(dim=128) == fingerprint(dim=None)
    assert fingerprint(dim=9) != fingerprint(dim=8)
    assert fingerprint(random_state=1) != fingerprint(random_state=2)
    sbert = {"encoder": "sentence_transformers", "model": "all-MiniLM-L6-v2"}
    assert fingerprint(**sbert, device="cuda:0") == fingerprint(**sbert, device="cuda:1")
    assert fingerprint(**sbert, device="cuda:0") != fingerprint(**sbert, device="cpu")
    for settings in (sbert, {}, {"encoder": "precomputed", "file": file}):
        content_key(fingerprint(**settings))  # plain values
        assert json.loads(json.dumps(fingerprint(**settings))) == fingerprint(**settings)


def test_a_model_that_gives_nan_is_named(monkeypatch):
    monkeypatch.setattr(SentenceTransformerEncoder, "_embed", lambda *_: np.array([[1.0, 2.0], [np.nan, 0.0]]))
    with pytest.raises(ValueError, match=r"content_model='m' gave NaN.*1 of 2 items \(such as i1\)"):
        encode(["x", "y"], encoder="sentence_transformers", model="m")


def test_the_libraries_are_imported_only_when_they_are_needed():
    sources = list(Path(encoders.__file__).parent.glob("*.py"))
    top = [x for source in sources for x in source.read_text().split("\n") if x.startswith(("import ", "from "))]
    names = ("torch", "sklearn", "import transformers", "from transformers", "import sentence", "huggingface")
    assert len(sources) > 5 and not [line for line in top if any(name in line for name in names)]


class Killed(Exception):
    pass


def test_a_killed_process_resumes_the_encoding_of_a_large_catalogue(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("recbole_tiger.content.encoders.sentence_transformer._PART", 4)
    sentences, asked = [f"sentence {n}" for n in range(10)], []

    def vectors(part):
        asked.append(part)
        if len(asked) == 3:
            raise Killed
        return np.array([[len(sentence), int(sentence.split()[1])] for sentence in part], dtype=np.float16)

    expected = np.array([[len(sentence), n] for n, sentence in enumerate(sentences)], dtype=np.float32)
    with pytest.raises(Killed):
        _in_parts(sentences, tmp_path / "unfinished", vectors)
    (tmp_path / "unfinished" / "4.npy").write_bytes(b"\x93NUMPY half a file")  # what a failing disk leaves
    caplog.set_level("INFO")
    found = _in_parts(sentences, tmp_path / "unfinished", vectors)
    assert found.dtype == np.float32 and np.array_equal(found, expected)
    assert asked == [sentences[:4], sentences[4:8], sentences[8:], sentences[4:8], sentences[8:]]
    assert "Encoded 8 of 10 sentences, 0 min left" in caplog.text

    alone = _in_parts(sentences[:4], tmp_path / "none", vectors)  # a small catalogue leaves no files
    assert np.array_equal(alone, expected[:4]) and not (tmp_path / "none").exists()
