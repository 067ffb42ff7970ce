import pytest

from quantjax.data.locate import locate


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("QUANTJAX_DATA", raising=False)


def make(parent, folder="set", origin="there"):
    (parent / folder).mkdir(parents=True)
    return parent / folder


def test_places_are_searched_in_order(tmp_path, monkeypatch):
    given, environment, system = (make(tmp_path / name) for name in ("given", "env", "system"))
    extra = [str(system.parent)]
    assert locate(None, "set", origin="there", extra=extra) == system
    monkeypatch.setenv("QUANTJAX_DATA", str(environment.parent))
    assert locate(None, "set", origin="there", extra=extra) == environment
    assert locate(given.parent, "set", origin="there", extra=extra) == given
    assert locate(str(given.parent), "set", origin="there", extra=extra) == given


def test_system_places_follow_an_environment_without_the_set(tmp_path, monkeypatch):
    system = make(tmp_path / "system")
    monkeypatch.setenv("QUANTJAX_DATA", str(tmp_path / "env"))
    assert locate(None, "set", origin="there", extra=[str(system.parent)]) == system


def test_a_given_folder_alone_is_searched(tmp_path, monkeypatch):
    environment = make(tmp_path / "env")
    monkeypatch.setenv("QUANTJAX_DATA", str(environment.parent))
    with pytest.raises(FileNotFoundError, match=r"data folder set not found, looked in: .*given; "):
        locate(tmp_path / "given", "set", origin="there", extra=[str(environment.parent)])


def test_the_folder_itself_is_known_by_its_files(tmp_path):
    folder = make(tmp_path, "renamed")
    with pytest.raises(FileNotFoundError):
        locate(folder, "set", origin="there", files=["a", "b"])
    (folder / "b").touch()
    assert locate(folder, "set", origin="there", files=["a", "b"]) == folder
    assert locate(folder, "set", origin="there", files=["[bc]*"]) == folder


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path)
    assert locate("~", "set", origin="there") == tmp_path / "set"


@pytest.mark.parametrize("environment", [None, ""])
def test_nothing_to_search_says_how_to_point_to_it(monkeypatch, environment):
    if environment is not None:
        monkeypatch.setenv("QUANTJAX_DATA", environment)
    with pytest.raises(
        FileNotFoundError,
        match=r"QUANTJAX_DATA is not set.*--config\.data_dir=FOLDER or QUANTJAX_DATA=FOLDER, or "
        "fetch it from there",
    ):
        locate(None, "set", origin="there")
