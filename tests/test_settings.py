"""Settings from the environment and from sage.toml."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sage.errors import PipelineError
from sage.settings import Secret, check_url, load

CANARY = "sk-canary-7d1f"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(environ: dict[str, str] | None = None, toml: str | bytes | None = None) -> PipelineError:
    if toml is not None:
        Path("sage.toml").write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    with pytest.raises(PipelineError) as caught:
        load(environ or {})
    assert CANARY not in str(caught.value)
    assert "\n" not in str(caught.value) or caught.value.code == "E200"
    return caught.value


def test_defaults_where_nothing_is_set() -> None:
    settings = load({"HOME": "/home/ada"})
    assert settings.data_dir == Path("/home/ada/.local/share/sage")
    assert (settings.llm_url, settings.llm_key, settings.llm_timeout_s, settings.debug) == (None, None, 300.0, False)
    assert settings.origins == {}


def test_the_folder_in_memory_is_the_same_for_every_process_of_a_user() -> None:
    everywhere = Path(f"/dev/shm/sage-{os.geteuid()}")
    assert load({}).runtime_dir == everywhere
    assert load({"XDG_RUNTIME_DIR": "/run/user/7"}).runtime_dir == everywhere
    assert load({"SAGE_RUNTIME_DIR": "/tmp/mine"}).runtime_dir == Path("/tmp/mine")


def test_the_environment_wins_over_the_file() -> None:
    Path("sage.toml").write_text('llm_url = "http://file:1/v1/"\nllm_model = "from-file"\n')
    settings = load({"SAGE_LLM_URL": "http://127.0.0.1:8001/v1/"})
    assert (settings.llm_url, settings.llm_model) == ("http://127.0.0.1:8001/v1", "from-file")
    assert settings.origins == {"llm_url": "SAGE_LLM_URL", "llm_model": "sage.toml:2"}


def test_every_setting_can_come_from_the_environment() -> None:
    settings = load(
        {
            "SAGE_LLM_URL": "https://llm.example",
            "SAGE_LLM_KEY": f" {CANARY}\n",
            "SAGE_LLM_MODEL": "small",
            "SAGE_LLM_TIMEOUT_S": "12.5",
            "SAGE_DATA_DIR": "~/sage-data",
            "SAGE_DEBUG": "Yes",
            "HOME": "/home/ada",
        }
    )
    assert settings.llm_key == Secret(CANARY)
    assert (settings.llm_timeout_s, settings.debug) == (12.5, True)
    assert settings.data_dir == Path("/home/ada/sage-data")


def test_an_empty_variable_is_not_set() -> None:
    Path("sage.toml").write_text('llm_model = "small"\n')
    assert load({"SAGE_LLM_MODEL": ""}).llm_model == "small"


def test_the_file_is_the_one_that_is_named(tmp_path: Path) -> None:
    Path("other.toml").write_text("debug = true\n")
    assert load({"SAGE_CONFIG": "other.toml"}).debug is True
    assert load({"SAGE_CONFIG": "missing.toml"}, path=tmp_path / "other.toml").debug is True
    assert refused({"SAGE_CONFIG": "missing.toml"}).code == "E243"


def test_paths_in_a_file_are_relative_to_it() -> None:
    Path("conf").mkdir()
    Path("conf/key").write_text(CANARY + "\n")
    Path("conf/sage.toml").write_text('llm_key_file = "key"\ndata_dir = "data"\n')
    settings = load({}, path="conf/sage.toml")
    assert settings.llm_key == Secret(CANARY)
    assert settings.data_dir == Path("conf/data")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_DATA_HOME": "/xdg", "HOME": "/home/ada"}, "/xdg/sage"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/home/ada"}, "/home/ada/.local/share/sage"),
        ({}, ".sage"),
    ],
)
def test_where_data_goes(environ: dict[str, str], expected: str) -> None:
    assert load(environ).data_dir == Path(expected)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8001",
        "localhost",
        "file:///etc/passwd",
        "ftp://host/",
        "http://",
        "http:///v1",
        "http://host:0",
        "http://host:70000",
        "http://host:port",
        "http://[::1",
        "http://user@host",
        f"http://user:{CANARY}@host/v1",
        f"user:{CANARY}@host",
        f"http://user:{CANARY}/x@host",
        f"http://host/v1?api_key={CANARY}",
        "http://host/#v1",
        "http://a\\@b",
        "http://ho st",
        "http://host\r\nX: y",
        "http://hôte",
        "\udcff",
    ],
)
def test_a_url_that_will_not_do(url: str) -> None:
    error = refused({"SAGE_LLM_URL": url})
    assert (error.code, error.at) == ("E242", "SAGE_LLM_URL")


def test_a_url_is_checked_alike_elsewhere() -> None:
    assert check_url("https://llm.example:8443/openai/v1/", "here") == "https://llm.example:8443/openai/v1"


@pytest.mark.parametrize(
    ("toml", "code", "words"),
    [
        ('llm_ulr = "http://a"', "E240", "Try: llm_url"),
        ("zzz = 1", "E240", "Try: one of llm_url, "),
        ('[llm]\nurl = "http://a"', "E240", "got llm"),
        ("llm_url = 8", "E241", "got 8 (int), expected text"),
        ('llm_timeout_s = "8"', "E241", "got '8' (str), expected a number"),
        ("llm_timeout_s = true", "E241", "got True (bool)"),
        ("restarts = 1.5", "E241", "got 1.5 (float), expected a whole number"),
        ("restarts = -1", "E242", "from 0 to 1,000"),
        ("debug = 1", "E241", "got 1 (int), expected true or false"),
        ('debug = "true"', "E241", "got 'true' (str)"),
        ("llm_timeout_s = 0", "E242", "more than 0"),
        ("llm_timeout_s = nan", "E242", "got nan"),
        ("llm_timeout_s = 1e99", "E242", "got 1e+99"),
        ('llm_model = ""', "E242", "not empty"),
        ('data_dir = "a\\u0000b"', "E242", "printable"),
        (f'llm_key = "{CANARY}"', "E244", "SAGE_LLM_KEY"),
        ('llm_key_file = "missing"', "E244", "missing (llm_key_file from sage.toml:1)"),
        ("debug = true\ndebug = false", "E243", "Cannot overwrite a value"),
        ("\t: not toml", "E243", "not valid TOML"),
        (b"debug = \xff", "E243", "not valid TOML"),
        ("a = " + "[" * 5000, "E243", "not valid TOML"),
        ("#" * (1 << 20) + "\n", "E243", "too large"),
    ],
)
def test_a_file_that_will_not_do(toml: str | bytes, code: str, words: str) -> None:
    error = refused(toml=toml)
    assert error.code == code
    assert words in str(error)
    assert "sage.toml" in str(error)


def test_an_empty_file_and_a_byte_order_mark_are_fine() -> None:
    Path("sage.toml").write_bytes(b"")
    assert load({}).debug is False
    Path("sage.toml").write_bytes(b"\xef\xbb\xbfdebug = true\r\n")
    assert load({}).debug is True


def test_a_folder_is_not_a_settings_file() -> None:
    Path("sage.toml").mkdir()
    assert refused().code == "E243"


def test_all_problems_at_once_with_their_places() -> None:
    toml = '# settings\nllm_ulr = "x"\n\n"debug" = 1\n[nested]\nllm_model = "small"\n'
    error = refused({"SAGE_LLM_URL": "host", "SAGE_LLM_TIMEOUT_S": "soon", "SAGE_DEBUG": "maybe"}, toml)
    assert error.code == "E200"
    assert {(problem.code, problem.at) for problem in error.problems} == {
        ("E240", "sage.toml:2"),
        ("E240", "sage.toml:5"),
        ("E242", "SAGE_LLM_URL"),
        ("E241", "SAGE_LLM_TIMEOUT_S"),
        ("E241", "SAGE_DEBUG"),  # the variable won over the file, so the file's value is not looked at
    }


@pytest.mark.parametrize("key", ["two words", "clé", "a\nb", "   ", "\udc80"])
def test_a_key_that_cannot_be_sent(key: str) -> None:
    error = refused({"SAGE_LLM_KEY": key})
    assert (error.code, error.at, error.got) == ("E244", "SAGE_LLM_KEY", None)


@pytest.mark.parametrize("content", [b"", b"k" * 5000, b"\xff\xfe", b"one\ntwo"])
def test_a_key_file_that_holds_no_key(content: bytes) -> None:
    Path("key").write_bytes(content)
    assert refused({"SAGE_LLM_KEY_FILE": "key"}).code == "E244"


def test_a_secret_is_never_shown() -> None:
    settings = load({"SAGE_LLM_KEY": CANARY})
    assert settings.llm_key is not None
    assert settings.llm_key.reveal() == CANARY
    assert CANARY not in f"{settings} {settings!r} {settings.llm_key} {settings.llm_key!r} {[settings.llm_key]}"


def test_the_process_environment_is_the_default() -> None:
    code = "import sage.settings; print(sage.settings.load().llm_model)"
    env = {**os.environ, "SAGE_LLM_MODEL": "from-process", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "from-process\n"


def test_several_endpoints() -> None:
    settings = load({"SAGE_LLM_URL": "http://127.0.0.1:8001/, https://b/v1"})
    assert settings.llm_urls == ("http://127.0.0.1:8001", "https://b/v1")
    assert load({}).llm_urls == ()
    assert refused({"SAGE_LLM_URL": "http://a,http://a/"}).code == "E242"
    assert refused({"SAGE_LLM_URL": "http://a,"}).code == "E242"


def test_the_gateway_has_a_key_of_its_own() -> None:
    settings = load({"SAGE_GATEWAY_URL": "http://127.0.0.1:8900", "SAGE_GATEWAY_KEY": CANARY})
    assert (settings.gateway_url, settings.gateway_key) == ("http://127.0.0.1:8900", Secret(CANARY))
    assert settings.llm_key is None
    Path("sage.toml").write_text(f'gateway_key = "{CANARY}"\n')
    found = refused({})
    assert found.code == "E244"
    assert "SAGE_GATEWAY_KEY" in str(found)
    assert CANARY not in str(found)
