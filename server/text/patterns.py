"""What in a text is no language: addresses, placeholders, codes. Every pattern is linear.

A pattern that could begin inside a long run of its own characters starts with a look-behind, so
that it is tried once per run and not once per character.
"""

from __future__ import annotations

import re

# Characters of an address, and those it may end with: marks behind it belong to the sentence, and a
# closing parenthesis only where the opening one is in it.
IN_ADDRESS = r"[^\s<>\"'`|{}\\^()]"
AT_END = r"[^\s<>\"'`|{}\\^().,;:!?*\]]"
IN_PARENTHESES = rf"\({IN_ADDRESS}*+\)"
ADDRESS = rf"(?:{IN_ADDRESS}|{IN_PARENTHESES})*(?:{AT_END}|{IN_PARENTHESES})"

URL = rf"(?:(?:https?|ftp|file)://|\bwww\.){ADDRESS}"
EMAIL = r"(?<![\w.+-])(?:mailto:)?[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
DOMAIN = (
    r"(?<![\w.@/-])(?:[A-Za-z0-9-]{1,63}\.){1,6}"
    r"(?:com|org|net|edu|gov|info|io|eu|de|at|ch|fr|nl|pl|uk|dev|app)"
    rf"(?![\w-])(?!\.\w)(?:/(?:{ADDRESS})?)?"
)
PATH = (
    r"(?<![\w./~-])(?:~|\.{1,2})?/(?:[\w.+-]+/)+[\w.+-]*\w"
    r"|(?<!\w)[A-Za-z]:\\[^\s<>\"'*?|]+"
)

DOUBLE_BRACES = r"\{\{[^{}\n]{0,200}\}\}"
BRACES = r"\$?\{[^{}\n]{0,200}\}"
PRINTF = (
    r"%\([\w.]{1,64}\)[-+#0]{0,4}\d{0,4}(?:\.\d{1,4})?[sdifuxXgGeEcr]"
    r"|(?<![\d%])%(?:\d{1,2}\$)?[-+#0]{0,4}\d{0,4}(?:\.\d{1,4})?(?:ll?|h)?[sdifuxXgGeEc@](?!\w)"
)
VARIABLE = r"(?<![\w$])\$[A-Za-z_]\w*"
BACKTICKS = r"`[^`\n]{1,400}`"
MENTION = r"(?<![\w@.#&/])[@#]\w{2,64}"
SHORTCODE = r"(?<![\w:]):[a-z][a-z0-9_+-]{1,30}:(?!\w)"

DATE = r"(?<![\w.])\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?Z?)?(?!\w)"
SHORT_DATE = r"(?<![\w.])\d{1,2}(?P<dot>[./])\d{1,2}(?P=dot)(?:\d{4}|\d{2})(?!\w)"
TELEPHONE = r"(?<![\w.,])(?:\+\d|0\d)[\d ()/-]{5,24}\d(?![\w.,]*\d)"
# Groups of three are a number and no version: 3.500.000 is read, and written in the other way.
DOTTED = (
    r"(?!\d{1,3}(?:\.\d{3})+(?:,\d+)?(?![.,]?\w))"
    r"(?<![\w.,])v?\d{1,5}\.\d{1,5}\.\d{1,5}(?:\.\d{1,5})*(?:-[\w.]{1,20})?(?!\w)"
)
CODE = (
    r"(?<![\w./-])(?=[A-Z0-9_/.-]{0,60}[A-Z])(?=[A-Z_/.-]{0,60}\d)"
    r"[A-Z0-9](?:[A-Z0-9_/.-]{0,60}[A-Z0-9])(?![\w-])"
)
HEXADECIMAL = (
    r"(?<!\w)(?:0x)?(?=[a-f]{0,63}\d)(?=\d{0,63}[a-f])[0-9a-f]{8,64}(?:-[0-9a-f]{4,64}){0,8}(?!\w)"
)
IDENTIFIER = r"(?<![\w-])[A-Za-z]\w{0,60}?_\w{1,60}(?:\(\))?(?![\w-])"


VALUES = (
    URL, EMAIL, DOMAIN, PATH, DOUBLE_BRACES, BRACES, PRINTF, VARIABLE, BACKTICKS, MENTION,
    SHORTCODE, DATE, SHORT_DATE, TELEPHONE, HEXADECIMAL, CODE, IDENTIFIER, DOTTED,
)  # fmt: skip
VALUE = "|".join(VALUES)

NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}']\d+)*(?!\w)")
TIME = re.compile(
    r"(?<![\w.,])\d{1,2}[.:]\d{2}(?![\w.,]*\d)|(?<![\w.,])\d{1,2}(?=\s?(?:Uhr|h|o'clock|[ap]\.?m)\b)"
)

# Characters that take no room: soft hyphens, joiners, marks of direction, byte order marks.
INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200d\u200e\u200f"
    "\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
)
CONTROL = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
LINE_END = "\n\r\x0b\x0c\x1c-\x1f\x85\u2028\u2029"
PICTOGRAPH = "[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff\u203c\u2049\u3030\u303d]"
JOINED = "[\ufe0e\ufe0f\u200d\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
EMOJI = rf"(?:{PICTOGRAPH}|[0-9#*]\ufe0f?\u20e3){JOINED}*(?: *{PICTOGRAPH}{JOINED}*)*"

MONTHS = (
    "Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember|"
    "Jahrhundert|Klasse|Mal|Platz|Stock|Etage|Advent|Tag|Woche|Runde|Auflage|Geburtstag|Jahrestag"
)
LIST_MARK = (
    r"(?:[-*+\u2022\u2023\u25aa\u25ab\u25cf\u25cb\u25e6\u2043\u2013\u2014\u00b7]"
    rf"|\(?\d{{1,3}}\)|\d{{1,3}}\.(?![ \t]+(?:{MONTHS})\b)|\(?[a-zA-Z]\)"
    r"|\#{1,6}|>{1,8}|\[[ xX]\])"
)
LIST_MARKS = rf"(?:(?m:^)|(?<=\r))[ \t]*(?:{LIST_MARK}(?:[ \t]+))+"
GAP = rf"[{LINE_END}\t]+|[ \u00a0\u3000]{{3,}}"
