# SPDX-License-Identifier: Apache-2.0
"""URLs: strict, the same after writing and reading, and silent about secrets."""

import copy
import itertools
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuekit._values.errors import InvalidURLError
from queuekit._values.url import Host, QueueURL

SECRET = "s3cr3t-canary-url"

printable = st.text(st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
names = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)
hosts = st.builds(
    Host, st.one_of(printable, st.sampled_from(["::1", "fe80::1", "10.0.0.1"])), st.none() | st.integers(1, 65535)
)
urls = st.builds(
    QueueURL,
    scheme=st.sampled_from(["redis", "redis+unix", "x-1.y"]),
    hosts=st.lists(hosts, max_size=3).map(tuple),
    user=st.none() | printable,
    password=st.none() | st.text(st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cc")), max_size=12),
    path=st.just("") | printable.map(lambda text: "/" + text),
    options=st.dictionaries(printable, printable, max_size=3),
)


def rendered(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(error.__dict__)


@given(urls)
def test_what_is_written_is_read_back(url: QueueURL) -> None:
    assert QueueURL.parse(url.reveal()) == url


@given(urls)
def test_what_is_shown_can_be_read_and_is_stable(url: QueueURL) -> None:
    shown = QueueURL.parse(str(url))
    assert str(shown) == str(url)
    assert pickle.loads(pickle.dumps(url)) == shown


@given(st.text(max_size=60) | st.text("ab:/?#[]@%&=.,0 ", max_size=40).map(lambda text: "a://" + text))
def test_any_text_is_a_url_or_an_invalid_url(text: str) -> None:
    try:
        url = QueueURL.parse(text)
    except InvalidURLError:
        return
    assert QueueURL.parse(url.reveal()) == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("memory://orders", QueueURL("memory", (Host("orders"),))),
        ("memory://orders?space=a", QueueURL("memory", (Host("orders"),), options={"space": "a"})),
        ("sqlite:///jobs.db?queue=q", QueueURL("sqlite", path="/jobs.db", options={"queue": "q"})),
        ("sqlite:////var/jobs.db", QueueURL("sqlite", path="//var/jobs.db")),
        ("sqlite:///C:/jobs.db", QueueURL("sqlite", path="/C:/jobs.db")),
        ("redis://u:p%40ss@h:6379/0", QueueURL("redis", (Host("h", 6379),), "u", "p@ss", "/0")),
        ("redis://:p@h", QueueURL("redis", (Host("h"),), None, "p")),
        ("redis+cluster://a:1,[::1]:2,b", QueueURL("redis+cluster", (Host("a", 1), Host("::1", 2), Host("b")))),
        ("sqs://123@eu-west-1/orders.fifo", QueueURL("sqs", (Host("eu-west-1"),), "123", None, "/orders.fifo")),
        ("memory://a%3Ab", QueueURL("memory", (Host("a:b"),))),
        ("memory://caf\u00e9", QueueURL("memory", (Host("caf\u00e9"),))),
        ("memory://a+b?x=1+1", QueueURL("memory", (Host("a+b"),), options={"x": "1+1"})),
        (
            "x://q?target=https://w.example/t%3Fa=1%26b=2",
            QueueURL("x", (Host("q"),), options={"target": "https://w.example/t?a=1&b=2"}),
        ),
        (
            "pubsub://p/t?service_account=a@b.example",
            QueueURL("pubsub", (Host("p"),), None, None, "/t", {"service_account": "a@b.example"}),
        ),
    ],
)
def test_the_documented_forms(text: str, url: QueueURL) -> None:
    assert QueueURL.parse(text) == url


RAW = [" ", "\t", "\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\u00a0", "\u2028", "\u3000", "\ud800", "\\", "#"]
FRAMES = [
    "redis://u:{}p@h/0",
    "redis://h/{}",
    "redis://h{}/0",
    "redis://h/0?a={}b",
    "redis://h/0?a{}=b",
    "re{}dis://h",
]
DECODED = [
    "%00",
    "%0A",
    "%0d",
    "%1f",
    "%7F",
    "%C2%85",
    "%80",
    "%ff",
    "%C3%28",
    "%ED%A0%80",
    "%",
    "%4x",
    "%zz",
    "%%",
    "%u0041",
    "%\uff11\uff11",
]
SHAPES = [
    "", " ", ":", "/", "//", "://", "redis", "redis:", "redis:/", "redis:/h", "redis:h", "//h", "h/0",
    "REDIS://h", "Redis://h", "1redis://h", "+redis://h", "re_dis://h", "re/dis://h", "\u0440edis://h",
    "redis//h", "redis;://h", " redis://h", "redis://h ", "redis://@@h", "redis://u@v@h", "redis://u:p@q@h",
    "redis://u:p:q@h", "redis://u:p@h@i/0", "redis://u:p/q@h/0", "redis://h/a@b", "redis://u:p/@h",
    "redis://h:", "redis://h:x", "redis://h:-1", "redis://h:0", "redis://h:65536", "redis://h:999999",
    "redis://h:1:2", "redis://h:\uff11\uff12", "redis://h:6379x", "redis://:6379", "redis://h,", "redis://,h",
    "redis://h,,i", "redis://h;i:1:2", "redis://[", "redis://]", "redis://[]", "redis://[::1", "redis://::1]",
    "redis://::1", "redis://[::1]x", "redis://[::1]:", "redis://[::g]", "redis://[h]", "redis://[[::1]]",
    "redis://[::1]]", "redis://[::1%25eth0]", "redis://a[b]", "redis://h?", "redis://h/0?", "redis://h?a",
    "redis://h?a=", "redis://h?=b", "redis://h?=", "redis://h?a=1&", "redis://h?&a=1", "redis://h?a=1&&b=2",
    "redis://h?a=1&a=1", "redis://h?a=1&%61=2", "redis://h?%20", "redis://h?a=1&b", "redis://u:1?x=2@h",
    "redis://u:123?s3=cr3t@h/0", "redis://u:p?x=2@h", "redis://h#f", "redis://h/0#", "redis://h?a=b#c",
    "redis://h\\i", "\\\\h\\q", "redis://" + "h" * 8200, "redis://h?a=" + "b" * 8200,
]  # fmt: skip
HOSTILE = [
    *SHAPES,
    *(frame.format(raw) for frame, raw in itertools.product(FRAMES, RAW)),
    *(frame.format(raw) for frame, raw in itertools.product(FRAMES[:5], DECODED)),
]


def test_there_are_two_hundred_hostile_shapes() -> None:
    assert len(set(HOSTILE)) >= 200


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_shape_is_refused(text: str) -> None:
    with pytest.raises(InvalidURLError) as caught:
        QueueURL.parse(text)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("value", [None, b"redis://h", 1, ["redis://h"], QueueURL("redis")])
def test_only_a_str_is_a_url(value: object) -> None:
    with pytest.raises(InvalidURLError, match="a queue URL is a str, not"):
        QueueURL.parse(value)  # type: ignore[arg-type]


BROKEN_WITH_SECRET = [
    *(f"redis://user:{SECRET}{raw}@h:6379/0?queue=q" for raw in RAW if raw != "\ud800"),
    *(f"redis://user:{SECRET}{raw}@h:6379/0?queue=q" for raw in DECODED),
    f"redis://user:{SECRET}/x@h/0",
    f"redis://user:{SECRET}@x@h/0",
    f"redis://user:a:{SECRET}@h/0",
    f"redis://user:{SECRET}@h:port/0",
    f"redis://user:{SECRET}h/0",
    f"redis://user:123?{SECRET}=1@h/0",
    f"redis://user:123?x={SECRET}@h/0",
    f"redis://user:{SECRET}@h/0?a=1&a=2",
    f"redis://user:{SECRET}@h/0?a",
    f"redis://h/0?password={SECRET}&password={SECRET}",
    f"redis://h/0?password={SECRET}%00",
    f"redis://h/0?password={SECRET} ",
    f"user:{SECRET}@h/0",
    f"REDIS://user:{SECRET}@h",
]


@pytest.mark.parametrize("text", BROKEN_WITH_SECRET)
def test_a_broken_url_is_refused_without_its_secret(text: str) -> None:
    with pytest.raises(InvalidURLError) as caught:
        QueueURL.parse(text)
    assert SECRET not in rendered(caught.value)
    assert SECRET not in repr(pickle.loads(pickle.dumps(caught.value)))


WITH_SECRET = [
    f"redis://user:{SECRET}@h/0",
    f"redis://:{SECRET}@h/0",
    f"redis://{SECRET}@h/0",
    *(f"x://h/0?{name}={SECRET}" for name in (
        "password", "passwd", "pass", "pwd", "passphrase", "secret", "client_secret", "token", "access_token",
        "api_key", "apikey", "Password", "TOKEN", "credentials", "auth", "signature", "sig", "sas",
        "aws_secret_access_key",
    )),
    f"x://h/0?delay_via=redis://user:{SECRET}@h/0",
    f"x://h/0?delay_via=redis://{SECRET}@h/0",
    f"x://h/0?delay_via=x://h%3Ftoken={SECRET}",
    f"x://h/0?delay_via=x://h%3Fvia=redis://u:{SECRET}%2540h",
    f"x://h/0?delay_via=HTTPS://user:{SECRET}@h/0",
    f"x://h/0?delay_via=x://broken%20{SECRET}@h",
    f"x://h/0?dsn=user:{SECRET}@h/0",
]  # fmt: skip


@pytest.mark.parametrize("text", WITH_SECRET)
def test_a_secret_is_in_no_shown_form(text: str) -> None:
    url = QueueURL.parse(text)
    shown = [str(url), repr(url), f"{url}", f"{url:>200}", repr([url]), repr(pickle.dumps(url))]
    assert not [each for each in shown if SECRET in each]
    assert any(SECRET in each for each in url.secrets())
    assert SECRET in url.reveal()
    assert "***" in str(url)


def test_the_user_beside_a_password_is_hidden_too() -> None:
    assert str(QueueURL.parse(f"redis://{SECRET}:x@h/0")) == "redis://***:***@h/0"


def test_what_is_no_secret_is_shown() -> None:
    text = "sqs://eu-west-1/orders?ordering_key=a&endpoint=http://localhost:5000"
    assert str(QueueURL.parse(text)) == text


def test_urls_nested_without_end_are_hidden_instead_of_read() -> None:
    url = QueueURL.parse("x://h?via=" + "x://h?via=" * 700 + "x://h")
    assert str(url) == "x://h?via=***"
    assert len(list(url.secrets())) == 1


def test_a_traceback_through_a_call_shows_no_secret() -> None:
    def connect(url: QueueURL) -> None:
        msg = f"no answer from {url}"
        raise RuntimeError(msg) from ValueError(url)

    with pytest.raises(RuntimeError) as caught:
        connect(QueueURL.parse(f"redis://user:{SECRET}@h/0"))
    assert SECRET not in rendered(caught.value)


def test_a_copy_keeps_the_credentials() -> None:
    url = QueueURL.parse(f"redis://user:{SECRET}@h/0")
    assert copy.copy(url).reveal() == copy.deepcopy({"url": url})["url"].reveal() == url.reveal()


def test_equal_urls_have_equal_hashes_whatever_the_order_of_options() -> None:
    one, two = QueueURL.parse("x://h?a=1&b=2"), QueueURL.parse("x://h?b=2&a=1")
    assert one == two
    assert len({one, two}) == 1


def test_parts_are_replaced_and_options_added() -> None:
    url = QueueURL.parse("x://h?a=1")
    assert url.with_option("b", "&=#").reveal() == "x://h?a=1&b=%26%3D%23"
    assert url.replace(path="/p").reveal() == "x://h/p?a=1"
