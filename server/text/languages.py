"""Names of languages: what clients write, and how models spell it."""

from __future__ import annotations

import re
from collections.abc import Iterable

# ISO 639-3 (and what NLLB and py3langid write) -> ISO 639-1, where there is a short name.
SHORT_NAMES = (
    "afr:af amh:am arb:ar ara:ar asm:as ast:ast azj:az aze:az bel:be ben:bn bos:bs bul:bg "
    "cat:ca ces:cs cze:cs cym:cy dan:da deu:de ger:de ell:el eng:en epo:eo est:et eus:eu "
    "pes:fa fas:fa fin:fi fra:fr fre:fr gle:ga glg:gl guj:gu hau:ha heb:he hin:hi hrv:hr "
    "hun:hu hye:hy ibo:ig ind:id isl:is ita:it jav:jv jpn:ja kan:kn kat:ka kaz:kk khm:km "
    "kor:ko kir:ky lao:lo lit:lt ltz:lb lvs:lv lav:lv mal:ml mar:mr mkd:mk mlt:mt khk:mn "
    "mon:mn mya:my nld:nl dut:nl nob:no nor:no npi:ne nep:ne oci:oc ory:or pan:pa pol:pl "
    "por:pt pbt:ps pus:ps ron:ro rum:ro rus:ru sin:si slk:sk slv:sl som:so spa:es als:sq "
    "sqi:sq srp:sr sun:su swe:sv swh:sw swa:sw tam:ta tel:te tgk:tg tgl:tl tha:th tur:tr "
    "ukr:uk urd:ur uzn:uz uzb:uz vie:vi xho:xh yor:yo zho:zh cmn:zh zul:zu"
)
SHORT = dict(pair.split(":") for pair in SHORT_NAMES.split())
# M2M-100's language tokens follow its vocabulary in this order; newer tools save no list of them.
M2M_100 = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu "
    "ha he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms "
    "my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur "
    "uz vi wo xh yi yo zh zu"
)
M2M_FAMILIES = {
    "m2m100": M2M_100.split(),
    "wmt21": ["en", "ha", "is", "ja", "cs", "ru", "zh", "de"],
}
TOKEN_FORMS = (
    re.compile(r"__([a-z]{2,4})__"),  # M2M-100: __de__
    re.compile(r">>([A-Za-z_]{2,12})<<"),  # Marian with several targets: >>deu<<
    re.compile(r"([a-z]{2,3}_[A-Z]{2})"),  # mBART: de_DE
    re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"),  # NLLB: deu_Latn
)


def language_of_token(token: str) -> str | None:
    """Return the language that a special token stands for, as the token spells it."""
    for form in TOKEN_FORMS:
        found = form.fullmatch(token)
        if found:
            return found[1]
    return None


def base_language(name: str) -> str:
    """Return the short name of a language: "deu_Latn", "de-AT" and "DE" are all "de"."""
    primary = re.split(r"[-_]", name.strip().casefold(), maxsplit=1)[0]
    return SHORT.get(primary, primary)


def pick_language(asked: str, known: Iterable[str]) -> str | None:
    """Return the one of the known languages that is meant: exactly, else the first of its base."""
    spelled, base = _spelled(asked), base_language(asked)
    near = None
    for language in known:
        if _spelled(language) == spelled:
            return language
        if near is None and base_language(language) == base:
            near = language
    return near


def _spelled(name: str) -> tuple[str, str]:
    """Return the short name and what follows it: a script, a country."""
    rest = re.split(r"[-_]", name.strip().casefold(), maxsplit=1)[1:]
    return base_language(name), rest[0] if rest else ""
