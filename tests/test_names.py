"""Names: any text makes a path segment, no two names the same one, and ordinary names stay readable."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dask_svcca.stores._names import RepresentationName, encode

# Lone surrogates are not valid text: UTF-8 has none.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
AWKWARD = [
    "/",
    "%",
    "%2F",
    ".",
    "..",
    "...",
    ".hidden",
    "_",
    "__init__",
    "zarr.json",
    "zarr%2Ejson",
    "c",
    " ",
    "a b ",
    "\n",
]
AWKWARD += [
    "aux",
    "CON",
    "nul.txt",
    "com1",
    "LPT9.x.y",
    "fc.",
    "fc ",
    "fc. .",
    "aux.",
    " .",
    "\0",
    "C:\\model",
    'a*?<>|"b',
    "é",
    "e\u0301",
    "層",
    "🧠",
    "/backbone/Conv_output_0",
    "50%",
]


def awkward_names(test):
    for name in AWKWARD:
        test = example(name)(test)
    return test


@awkward_names
@given(ANY_TEXT)
def test_encode__is_reversible(name: str) -> None:
    assert unquote(encode(name)) == name


@awkward_names
@given(ANY_TEXT)
def test_encode__gives_one_plain_path_segment(name: str) -> None:
    segment = encode(name)
    assert segment.isascii()
    assert segment.isprintable()
    assert not set(segment) & set('/\\:*?"<>|')
    assert not segment.startswith((".", "_"))
    assert segment not in {"", "zarr.json"}
    assert not segment.endswith((".", " "))
    assert segment.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(st.lists(ANY_TEXT | st.sampled_from(AWKWARD), unique=True, max_size=8))
def test_encode__tells_names_apart(names: list[str]) -> None:
    assert len(set(map(encode, names))) == len(names)


@pytest.mark.parametrize(
    "name", ["resnet-s0", "step00100", "block1.conv1", "layer 3 (pre)", "lr=0.1,bs=32", "a_b~c+d@e"]
)
def test_encode__leaves_ordinary_names_alone(name: str) -> None:
    assert encode(name) == name


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT), unique=True, min_size=2, max_size=4))
@example([("a", "b/c", "d"), ("a", "b", "c/d"), ("a/b", "c", "d")])
def test_representation_name__labels_and_paths_are_unique(names: list[tuple[str, str, str]]) -> None:
    assert len({RepresentationName(*name).label for name in names}) == len(names)
    assert len({RepresentationName(*name).path for name in names}) == len(names)


def test_representation_name__label_shows_the_layer_as_it_is() -> None:
    assert RepresentationName("resnet/s0", "step 1", "/block1/conv%1").label == "resnet%2Fs0/step 1//block1/conv%1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (("", "c", "l"), "the name of a model must be text of at least one character; got ''"),
        (("m", 3, "l"), "the name of a checkpoint must be text of at least one character; got 3"),
        (("m", "c", None), "the name of a layer must be text of at least one character; got None"),
    ],
)
def test_representation_name__refuses_what_is_not_text(name: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RepresentationName(*name).check()


@pytest.mark.parametrize(
    ("layer", "why"), [("x" * 256, "takes 256 bytes"), ("é" * 60, "takes 360 bytes"), ("\ud800", "not valid text")]
)
def test_check__refuses_what_no_file_system_takes(layer: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RepresentationName("m", "c", layer).check()
