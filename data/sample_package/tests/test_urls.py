"""Tests for tidyshelf.urls."""

import pytest

from tidyshelf import urls


def test_join_url_uses_single_slashes() -> None:
    assert urls.join_url("https://lib.test/", "/books/", "7") == "https://lib.test/books/7"


def test_join_url_skips_empty_parts() -> None:
    assert urls.join_url("https://lib.test", "", "/", "books") == "https://lib.test/books"


def test_build_query_sorts_and_quotes() -> None:
    assert urls.build_query({"q": "war & peace", "page": 2}) == "page=2&q=war%20%26%20peace"
    assert urls.build_query({"first name": "Ann"}) == "first%20name=Ann"


def test_build_query_leaves_out_only_none() -> None:
    assert urls.build_query({"a": None, "b": 0, "c": ""}) == "b=0&c="


def test_parse_query_decodes_names_and_values() -> None:
    assert urls.parse_query("?q=war+%26+peace&x") == {"q": ["war & peace"], "x": [""]}


def test_parse_query_collects_repeated_names() -> None:
    assert urls.parse_query("tag=a&tag=b") == {"tag": ["a", "b"]}


def test_split_host_reads_the_port() -> None:
    assert urls.split_host("Lib.test:8080") == ("lib.test", 8080)


def test_split_host_falls_back_to_the_scheme() -> None:
    assert urls.split_host("lib.test") == ("lib.test", 443)
    assert urls.split_host("lib.test", "http") == ("lib.test", 80)


def test_split_host_refuses_an_empty_port() -> None:
    with pytest.raises(ValueError):
        urls.split_host("lib.test:")


def test_clean_url_lowers_the_host_only() -> None:
    assert urls.clean_url(" HTTPS://Lib.Test/Books/#top ") == "https://lib.test/Books"


def test_clean_url_without_a_path() -> None:
    assert urls.clean_url("http://LIB.test/") == "http://lib.test"


def test_file_extension_is_lower_case() -> None:
    assert urls.file_extension("https://lib.test/covers/7.JPG") == "jpg"


def test_file_extension_ignores_the_query() -> None:
    assert urls.file_extension("https://lib.test/7.png?v=1.2") == "png"


def test_file_extension_may_be_missing() -> None:
    assert urls.file_extension("https://lib.test/books") == ""
    assert urls.file_extension("https://lib.test/.hidden") == ""
