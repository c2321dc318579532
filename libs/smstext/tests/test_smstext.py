"""Templates, parts, senders and numbers, with the examples that the standards and the provider give."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smstext.parts import GSM_BASIC, GSM_EXTENSION, Encoding, count_parts, measure
from smstext.phone import PhoneProblem, mask_phone, parse_phone
from smstext.sender import check_sender
from smstext.template import Template, TemplateError


def test_a_template_without_placeholders_renders_itself() -> None:
    template = Template.parse("Καλημέρα! 20% off { only today }")
    assert template.variable_names == ()
    assert template.render(()) == "Καλημέρα! 20% off { only today }"


def test_placeholders_take_values_defaults_and_repeat() -> None:
    template = Template.parse("Hi {{first_name|friend}} {{ last_name }}, {{first_name}}!")
    assert template.variable_names == ("first_name", "last_name")
    assert template.render(("Νίκη", "P")) == "Hi Νίκη P, Νίκη!"
    assert template.render(("", "")) == "Hi friend , !"


def test_a_value_with_braces_is_text() -> None:
    assert Template.parse("Hi {{first_name}}").render(("{{last_name}}",)) == "Hi {{last_name}}"


@pytest.mark.parametrize("text", ["Hi {{first_name", "Hi }} there", "{{}}", "{{first name}}", "{{a|b|c}}"])
def test_braces_that_are_no_placeholder_are_refused_with_the_cure(text: str) -> None:
    with pytest.raises(TemplateError, match="write"):
        Template.parse(text)


@pytest.mark.parametrize(
    ("text", "encoding", "parts"),
    [
        ("", Encoding.GSM7, 1),
        ("a" * 160, Encoding.GSM7, 1),
        ("a" * 161, Encoding.GSM7, 2),
        ("a" * 306, Encoding.GSM7, 2),
        ("a" * 307, Encoding.GSM7, 3),
        ("€" * 80, Encoding.GSM7, 1),
        ("€" * 81, Encoding.GSM7, 2),
        ("a" * 152 + "€" + "a" * 152, Encoding.GSM7, 3),  # the euro sign does not fit into the 153rd septet
        ("ΔΦΓΛΩΠΨΣΘΞ", Encoding.GSM7, 1),
        ("Καλημέρα", Encoding.UCS2, 1),
        ("α" * 70, Encoding.UCS2, 1),
        ("α" * 71, Encoding.UCS2, 2),
        ("α" * 134, Encoding.UCS2, 2),
        ("α" * 135, Encoding.UCS2, 3),
        ("😀" * 35, Encoding.UCS2, 1),
        ("😀" * 36, Encoding.UCS2, 2),
        ("α" * 66 + "😀" + "α" * 66, Encoding.UCS2, 3),  # 134 units, but the pair does not fit into part 1
        ("a`b", Encoding.UCS2, 1),
    ],
)
def test_parts_follow_the_standard(text: str, encoding: Encoding, parts: int) -> None:
    size = measure(text)
    assert (size.encoding, size.parts) == (encoding, parts)


# Every way a batch can be told apart: all GSM, with extensions, Greek, beyond the BMP, and mixed.
ALPHABETS = ["abc `", "".join(sorted(GSM_BASIC)), "".join(sorted(GSM_BASIC | GSM_EXTENSION)), "abαβ", "ab€α😀"]


@given(
    st.sampled_from(ALPHABETS).flatmap(lambda letters: st.text(letters, max_size=200)),
    st.lists(st.sampled_from(ALPHABETS).flatmap(lambda letters: st.text(letters, max_size=150)), max_size=5),
)
def test_parts_of_many_texts_are_those_of_each(shared: str, own: list[str]) -> None:
    texts = [shared + each for each in own]
    assert count_parts(texts, shared, "".join(own)) == [measure(text).parts for text in texts]


@given(st.text(st.characters(max_codepoint=127), max_size=200))
def test_the_short_cut_for_ascii_texts_agrees_with_the_standard(text: str) -> None:
    is_gsm = all(character in GSM_BASIC | GSM_EXTENSION for character in text)
    units = sum(2 if is_gsm and character in GSM_EXTENSION else 1 for character in text)
    size = measure(text)
    assert (size.encoding, size.units) == (Encoding.GSM7 if is_gsm else Encoding.UCS2, units)


VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5))
def test_rendering_all_is_rendering_each(rows: list[tuple[str, str]]) -> None:
    template = Template.parse("100% {{a|%s}} {b} {{b}}, {{a}}%")
    assert template.render_all(list(zip(*rows, strict=True))) == [template.render(row) for row in rows]


@pytest.mark.parametrize("sender", ["Astronote", "abc", "A1234567890", "123", "12345678901234", "1a2"])
def test_allowed_senders(sender: str) -> None:
    assert check_sender(sender) is None


@pytest.mark.parametrize(
    "sender", ["", "ab", "A12345678901", "My Shop", "Ελλάδα", "12", "123456789012345", "+30694", "a-b"]
)
def test_refused_senders_say_the_rule(sender: str) -> None:
    problem = check_sender(sender)
    assert problem is not None
    assert "3-11 letters" in problem


@pytest.mark.parametrize(
    ("raw", "region", "digits"),
    [
        ("+306941234567", "", 306941234567),
        ("00306941234567", "", 306941234567),
        ("6941234567", "GR", 306941234567),
        ("306941234567", "GR", 306941234567),
        ("(+30) 694-123 4567", "", 306941234567),
        ("694.123.4567", "GR", 306941234567),
        ("'+306941234567", "", 306941234567),
        ("+30\u00a0694\u2011123\u20114567", "", 306941234567),
        ("\uff0b306941234567", "", 306941234567),
        ("٦٩٤١٢٣٤٥٦٧", "GR", 306941234567),
        ("0151 23456789", "DE", 4915123456789),
        ("+447400123456", "", 447400123456),
        ("+12015550123", "", 12015550123),
        ("+35799123456", "", 35799123456),
    ],
)
def test_numbers_people_write_become_e164(raw: str, region: str, digits: int) -> None:
    assert parse_phone(raw, region).digits == digits


@pytest.mark.parametrize(
    ("raw", "region", "problem"),
    [
        ("", "GR", PhoneProblem.PHONE_MISSING),
        ("  ", "GR", PhoneProblem.PHONE_MISSING),
        ("---", "GR", PhoneProblem.PHONE_MISSING),
        ("6941234567", "", PhoneProblem.PHONE_NO_REGION),
        ("3.06941E+11", "GR", PhoneProblem.PHONE_INVALID),
        ("call me", "GR", PhoneProblem.PHONE_INVALID),
        ("+30694123456", "", PhoneProblem.PHONE_INVALID),
        ("+3069412345678", "", PhoneProblem.PHONE_INVALID),
        ("+99912345678", "", PhoneProblem.PHONE_INVALID),
        ("+302101234567", "", PhoneProblem.PHONE_NOT_MOBILE),
        ("+30694123456x12", "", PhoneProblem.PHONE_INVALID),
        ("9" * 65, "GR", PhoneProblem.PHONE_INVALID),
    ],
)
def test_numbers_that_cannot_be_used_say_why(raw: str, region: str, problem: PhoneProblem) -> None:
    assert parse_phone(raw, region).problem is problem


@given(
    st.builds(
        "+{}{}".format,
        st.sampled_from(["30", "49", "357", "33", "39", "44", "1", "355", "359", "90", "7", "61"]),
        st.from_regex(r"[0-9]{6,11}", fullmatch=True),
    ),
)
def test_the_cheap_path_agrees_with_phonenumbers(e164: str) -> None:
    number = phonenumbers.parse(e164)
    mobile = phonenumbers.is_valid_number(number) and phonenumbers.number_type(number) in {
        phonenumbers.PhoneNumberType.MOBILE,
        phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE,
    }
    assert (parse_phone(e164).digits is not None) == mobile


def test_a_masked_number_shows_the_country_and_two_digits() -> None:
    assert mask_phone(306941234567) == "+30••••••••67"
