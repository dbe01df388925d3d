"""Tests for tidyshelf.text."""

from tidyshelf import text


def test_wrap_keeps_lines_within_the_width() -> None:
    assert text.wrap("one two three four", 9) == ["one two", "three", "four"]
    assert text.wrap("abcd efgh", 8) == ["abcd", "efgh"]


def test_wrap_fills_a_line_exactly() -> None:
    assert text.wrap("abc def ghi", 7) == ["abc def", "ghi"]


def test_wrap_of_blank_text_is_empty() -> None:
    assert text.wrap("   ", 10) == []


def test_truncate_keeps_short_text() -> None:
    assert text.truncate("Dune", 4) == "Dune"


def test_truncate_counts_the_dots() -> None:
    assert text.truncate("A Wizard of Earthsea", 12) == "A Wizard..."
    assert len(text.truncate("x" * 50, 10)) == 10


def test_title_case_leaves_small_words() -> None:
    assert text.title_case("the lord OF the rings") == "The Lord of the Rings"


def test_title_case_capitalizes_the_first_word() -> None:
    assert text.title_case("a tale of two cities") == "A Tale of Two Cities"


def test_slugify_joins_words_with_dashes() -> None:
    assert text.slugify("The Left Hand -- of Darkness!") == "the-left-hand-of-darkness"


def test_sort_title_drops_the_article() -> None:
    assert text.sort_title("The Hobbit") == "hobbit"
    assert text.sort_title("Theory of Games") == "theory of games"


def test_sort_title_keeps_a_lone_article() -> None:
    assert text.sort_title("A") == "a"


def test_last_name_first_swaps_the_parts() -> None:
    assert text.last_name_first(" Ann Lee ") == "Lee, Ann"


def test_last_name_first_with_many_or_one_name() -> None:
    assert text.last_name_first("Mary Ann Evans") == "Evans, Mary Ann"
    assert text.last_name_first("Homer") == "Homer"


def test_initials_are_upper_case() -> None:
    assert text.initials("ursula k le guin") == "U.K.L.G."


def test_count_words_ignores_case_and_punctuation() -> None:
    assert text.count_words("Dune, dune! Sand.") == {"dune": 2, "sand": 1}


def test_count_words_skips_lone_punctuation() -> None:
    assert text.count_words("war ... peace") == {"war": 1, "peace": 1}


def test_pluralize_regular_nouns() -> None:
    assert text.pluralize(1, "book") == "1 book"
    assert text.pluralize(2, "book") == "2 books"


def test_pluralize_nouns_in_y() -> None:
    assert text.pluralize(3, "copy") == "3 copies"


def test_pluralize_zero() -> None:
    assert text.pluralize(0, "loan") == "0 loans"


def test_highlight_marks_every_match() -> None:
    assert text.highlight("Dune and dune", "dune") == "[Dune] and [dune]"


def test_highlight_does_not_overlap() -> None:
    assert text.highlight("banana", "ana") == "b[ana]na"


def test_highlight_of_nothing() -> None:
    assert text.highlight("Dune", "") == "Dune"
